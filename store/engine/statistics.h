// The engine's statistics, each defined once: its name, meaning and presentation. Generates the members of
// Engine::Statistics, the values of the Stats call, the JSON of `kvlink status --json` and the Prometheus metrics.
//
// X(name, kind, metric, labels, help): `name` is the member and the name in the protocol and in JSON; `kind` is Gauge,
// or Count if it only ever grows; Prometheus shows kvlink_<metric>{labels}, with labels written "key=value,key=value".
// Thread-safety: constants.
#ifndef KVLINK_STORE_ENGINE_STATISTICS_H_
#define KVLINK_STORE_ENGINE_STATISTICS_H_

// clang-format off
#define KVLINK_ENGINE_STATISTICS(X) \
  X(segment_bytes, Gauge, "tier_bytes", "tier=segments", "Capacity of a tier") \
  X(dram_bytes, Gauge, "tier_bytes", "tier=dram", "Capacity of a tier") \
  X(segment_bytes_used, Gauge, "tier_bytes_used", "tier=segments", "Of a tier, by encodings") \
  X(dram_bytes_used, Gauge, "tier_bytes_used", "tier=dram", "Of a tier, by encodings") \
  X(pinned_bytes, Gauge, "pinned_bytes", "", "Of segments, by pinned encodings") \
  X(pinned_encodings, Gauge, "pinned_encodings", "", "Encodings that are not evicted") \
  X(hits_dram, Count, "hits_total", "tier=dram", "Encodings found by reads") \
  X(hits_segments, Count, "hits_total", "tier=segments", "Encodings found by reads") \
  X(misses, Count, "misses_total", "", "Encodings that reads did not find") \
  X(hit_tokens_dram, Count, "hit_tokens_total", "tier=dram", "Tokens of encodings found by reads") \
  X(hit_tokens_segments, Count, "hit_tokens_total", "tier=segments", "Tokens of encodings found by reads") \
  X(hit_bytes_dram, Count, "hit_bytes_total", "tier=dram", "Bytes of encodings found by reads") \
  X(hit_bytes_segments, Count, "hit_bytes_total", "tier=segments", "Bytes of encodings found by reads") \
  X(bytes_read, Count, "segment_read_bytes_total", "", "Read from segments") \
  X(bytes_written, Count, "segment_written_bytes_total", "", "Written to segments") \
  X(bytes_written_in_place, Count, "segment_written_in_place_bytes_total", "", "Written to segments without a copy") \
  X(evictions, Count, "encodings_evicted_total", "", "Encodings that left the segments for want of room") \
  X(evicted_capacity, Count, "evictions_total", "tier=segments,reason=capacity", "Encodings that left a tier, by reason") \
  X(evicted_quota, Count, "evictions_total", "tier=segments,reason=quota", "Encodings that left a tier, by reason") \
  X(removed, Count, "evictions_total", "tier=segments,reason=removed", "Encodings that left a tier, by reason") \
  X(unreferenced, Count, "evictions_total", "tier=segments,reason=unreferenced", "Encodings that left a tier, by reason") \
  X(replaced, Count, "evictions_total", "tier=segments,reason=replaced", "Encodings that left a tier, by reason") \
  X(dropped_damaged, Count, "evictions_total", "tier=segments,reason=damaged", "Encodings that left a tier, by reason") \
  X(dram_evictions, Count, "evictions_total", "tier=dram,reason=capacity", "Encodings that left a tier, by reason") \
  X(integrity_failures, Count, "integrity_failures_total", "", "Encodings whose bytes failed their checksum") \
  X(double_claims, Count, "double_claims_total", "", "Encodings dropped at open because two claimed one block") \
  X(leases, Gauge, "engine_leases", "", "Encodings that a reader, transfer or write holds") \
  X(loads_in_flight, Gauge, "loads_in_flight", "", "Encodings being read from segments") \
  X(pushes_open, Gauge, "pushes_open", "", "Pushes begun, neither committed nor dropped") \
  X(puts_in_flight, Gauge, "puts_in_flight", "", "Encodings being written or made durable") \
  X(reads_waiting, Gauge, "disk_requests", "kind=read,state=waiting", "Of the store to the disk") \
  X(reads_in_flight, Gauge, "disk_requests", "kind=read,state=in_flight", "Of the store to the disk") \
  X(writes_waiting, Gauge, "disk_requests", "kind=write,state=waiting", "Of the store to the disk") \
  X(writes_in_flight, Gauge, "disk_requests", "kind=write,state=in_flight", "Of the store to the disk") \
  X(scrubbed_encodings, Count, "scrubbed_encodings_total", "", "Encodings read again by the scrubber") \
  X(scrubbed_bytes, Count, "scrubbed_bytes_total", "", "Read again by the scrubber") \
  X(scrub_rounds, Count, "scrub_rounds_total", "", "Rounds of the scrubber over the store") \
  X(scrub_damaged, Count, "scrub_damaged_total", "", "Encodings that the scrubber found damaged") \
  X(reads_repeated, Count, "disk_reads_repeated_total", "", "Requests to the disk that failed and were made once more") \
  X(leases_revoked, Count, "leases_revoked_total", "", "Encodings taken back from readers that map the tier") \
  X(capacity_bytes, Gauge, "capacity_bytes", "", "That segment files may take") \
  X(bad_blocks, Gauge, "bad_blocks", "", "Blocks of segments that the device refused to write; not used any more") \
  X(sealed_blocks, Gauge, "sealed_blocks", "", "Blocks of segments that take no more writes") \
  X(puts_written_again, Count, "puts_written_again_total", "", "Encodings written once more elsewhere") \
  X(failed_flushes, Count, "failed_flushes_total", "", "Flushes of segments that the device refused") \
  X(open_segments, Gauge, "open_segments", "", "Segment files that are open")
// clang-format on

#endif  // KVLINK_STORE_ENGINE_STATISTICS_H_
