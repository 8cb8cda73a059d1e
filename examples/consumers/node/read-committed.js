import { Consumer } from '@platformatic/kafka'

const TRANSACTIONAL = 1 << 4
const CONTROL = 1 << 5

// A broker sends the records of aborted transactions too, with a list of them: the client drops them. The library (2.12)
// remembers one aborted transaction of a producer in a response, and none whose end isn't in it; it hands out the others.
export class CommittedConsumer extends Consumer {
  fetch (options, callback) {
    if (!callback) return super.fetch(options).then(dropAborted)
    return super.fetch(options, (error, response) => callback(error, error ? response : dropAborted(response)))
  }
}

export function dropAborted (response) {
  for (const { partitions } of response.responses) {
    for (const { abortedTransactions, records } of partitions) {
      if (!records || !abortedTransactions?.length) continue
      const starts = abortedTransactions.toSorted((a, b) => Number(a.firstOffset - b.firstOffset))
      const open = new Set() // producers whose aborted transaction has begun
      for (const batch of records) {
        const last = batch.firstOffset + BigInt(batch.lastOffsetDelta)
        while (starts.length && starts[0].firstOffset <= last) open.add(starts.shift().producerId)
        if (batch.attributes & CONTROL) open.delete(batch.producerId)
        // Emptied and not taken away: the stream goes on behind the last batch that it got.
        else if (batch.attributes & TRANSACTIONAL && open.has(batch.producerId)) batch.records = []
      }
    }
  }
  return response
}
