// Hand campaign actions to the sender of messages: each once, whatever crashes.
// npm ci, then: node actions.js

import { DatabaseSync } from 'node:sqlite'
import { jsonDeserializer } from '@platformatic/kafka'
import { CommittedConsumer } from './read-committed.js'

const db = new DatabaseSync(process.env.DATABASE ?? 'crm.db', { timeout: 60_000 })
// The sender takes its work from this table, and marks it `sent`. The id is the action's: the same after any crash.
db.exec(`
  CREATE TABLE IF NOT EXISTS messages (
    id TEXT PRIMARY KEY, customer_id TEXT NOT NULL, campaign TEXT NOT NULL, channel TEXT NOT NULL,
    action TEXT NOT NULL, sent INTEGER NOT NULL DEFAULT 0
  )
`)
const insert = db.prepare(`
  INSERT INTO messages (id, customer_id, campaign, channel, action) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING
`)

// Store an action as a message to send. All else that the topic has never leads to a message.
function store (event) {
  switch (event.type) {
    case 'campaign.action':
      insert.run(event.id, event.customer_id, event.campaign, event.channel, event.action)
      break
    default:
      // campaign.withheld, .scheduled, .converted and .budget say why there is no message, and what came of one.
      // Later versions may add types: skip those that you don't know.
  }
}

// An error ends the process, and whatever keeps services alive starts it again: it goes on where this one was.
const consumer = new CommittedConsumer({
  clientId: 'crm',
  groupId: process.env.GROUP ?? 'crm-actions',
  bootstrapBrokers: [process.env.SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS ?? '127.0.0.1:9092'],
  deserializers: { value: jsonDeserializer },
  autocommit: false, // it would commit what has been fetched, not what has been stored
  sessionTimeout: 10_000 // so long does a restart after a crash wait for the partitions
})
const topics = [process.env.SEGSTREAM_ACTIONS_TOPIC ?? 'campaign-actions']
const stream = await consumer.consume({ topics, mode: 'committed', fallbackMode: 'earliest' })
let batch = []
for await (const message of stream) {
  batch.push(message)
  if (stream.readableLength && batch.length < 1000) continue
  db.exec('BEGIN IMMEDIATE')
  for (const { value } of batch) store(value)
  db.exec('COMMIT')
  // Only now: before, a crash would lose the batch. After a crash between the two it comes again.
  await Promise.all(batch.map(message => message.commit()))
  batch = []
}
