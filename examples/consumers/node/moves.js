// Keep a table of every customer's segment: start from segment-state, then follow segment-changes.
// npm ci, then: node moves.js

import { randomUUID } from 'node:crypto'
import { DatabaseSync } from 'node:sqlite'
import { Admin, jsonDeserializer, stringDeserializer } from '@platformatic/kafka'
import { CommittedConsumer } from './read-committed.js'

const CHANGES = process.env.SEGSTREAM_CHANGES_TOPIC ?? 'segment-changes'
const STATE = process.env.SEGSTREAM_STATE_TOPIC ?? 'segment-state'
const GROUP = process.env.GROUP ?? 'crm-moves'
// As long as Kafka lets a transaction take: a move that old is visible in both topics or in neither.
const OVERLAP_MS = 15 * 60_000
const options = {
  clientId: 'crm',
  bootstrapBrokers: [process.env.SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS ?? '127.0.0.1:9092'],
  deserializers: { key: stringDeserializer, value: jsonDeserializer },
  autocommit: false, // it would commit what has been fetched, not what has been stored
  sessionTimeout: 10_000 // so long does a restart after a crash wait for the partitions
}

const db = new DatabaseSync(process.env.DATABASE ?? 'crm.db', { timeout: 60_000 })
db.exec(`
  CREATE TABLE IF NOT EXISTS customers (
    customer_id TEXT PRIMARY KEY, segment TEXT, merged_into TEXT, sequence INTEGER NOT NULL
  );
  CREATE TABLE IF NOT EXISTS beginning (kafka_partition INTEGER PRIMARY KEY, kafka_offset INTEGER NOT NULL);
`)
// A move that is stored already, or that comes after a later one of its customer, changes nothing.
const insert = db.prepare(`
  INSERT INTO customers (customer_id, segment, merged_into, sequence) VALUES (?, ?, ?, ?)
  ON CONFLICT (customer_id) DO UPDATE
  SET segment = excluded.segment, merged_into = excluded.merged_into, sequence = excluded.sequence
  WHERE excluded.sequence > customers.sequence
`)
const remove = db.prepare('DELETE FROM customers WHERE customer_id = ?')
const note = db.prepare('INSERT INTO beginning VALUES (?, ?)')
const noted = db.prepare('SELECT kafka_partition, kafka_offset FROM beginning')

// An erased or merged id keeps its number, so that no older move brings it back.
function store (move) {
  insert.run(move.customer_id, move.to, move.merged_into ?? null, move.sequence)
}

// Copy segment-state, and note from where segment-changes must be followed.
async function copyState () {
  const consumer = new CommittedConsumer({ ...options, groupId: `${GROUP}-${randomUUID()}` })
  // The ends are asked first: after them a move may come, and a partition without a later one begins there.
  const ends = (await consumer.listOffsets({ topics: [CHANGES] })).get(CHANGES)
  const timestamp = BigInt(Date.now() - OVERLAP_MS)
  const since = (await consumer.listOffsetsWithTimestamps({ topics: [CHANGES], timestamp })).get(CHANGES)
  ends.forEach((end, p) => note.run(p, since.get(p).offset < 0n ? end : since.get(p).offset))

  const last = (await consumer.listOffsets({ topics: [STATE] })).get(STATE)
  const stream = await consumer.consume({ topics: [STATE], mode: 'earliest', maxWaitTime: 500 })
  // By position, not by record: the last offset is that of a transaction's marker.
  const read = () => last.every((end, p) => stream.offsetsToFetch.get(`${STATE}:${p}`) >= end) && !stream.readableLength
  await new Promise((resolve, reject) => {
    stream.on('error', reject)
    stream.on('fetch', () => read() && resolve())
    stream.on('data', ({ key, value }) => {
      if (value) store(value)
      else remove.run(key) // the customer was erased, or merged into another
    })
  })
  await consumer.close(true)
}

// On the first start, copy the state, and commit the noted offsets for the group. A crash repeats what is missing.
async function begin () {
  db.exec('BEGIN IMMEDIATE') // a second process waits here, and finds the copy done
  if (!noted.get()) await copyState()
  db.exec('COMMIT') // all of the copy or nothing

  const admin = new Admin(options)
  const partitions = noted.all()
  const consumer = new CommittedConsumer({ ...options, groupId: GROUP })
  const wanted = [{ topic: CHANGES, partitions: partitions.map(row => row.kafka_partition) }]
  const committed = (await consumer.listCommittedOffsets({ topics: wanted })).get(CHANGES)
  const partitionOffsets = partitions
    .filter(row => committed[row.kafka_partition] < 0n)
    .map(row => ({ partition: row.kafka_partition, offset: BigInt(row.kafka_offset) }))
  if (partitionOffsets.length) {
    await admin.alterConsumerGroupOffsets({ groupId: GROUP, topics: [{ name: CHANGES, partitionOffsets }] })
  }
  await Promise.all([admin.close(), consumer.close()])
}

await begin()
// An error ends the process, and whatever keeps services alive starts it again: it goes on where this one was.
const consumer = new CommittedConsumer({ ...options, groupId: GROUP })
const stream = await consumer.consume({ topics: [CHANGES], mode: 'committed', fallbackMode: 'earliest' })
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
