// Encodings over transport/: what the store's pulls stand on.
#ifndef KVLINK_BENCH_TRANSFER_TRANSFER_TRANSPORT_H_
#define KVLINK_BENCH_TRANSFER_TRANSFER_TRANSPORT_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "bench/transfer/transfer.h"
#include "transport/transport.h"

namespace kvlink::bench {

// "ucx" or "grpc". INVALID_ARGUMENT: another.
absl::StatusOr<std::unique_ptr<transport::Transport>> CarrierNamed(const std::string& name);

// Serves encodings from a ring over the carrier until it is killed; says its address in its first line. Ends the
// program on errors.
[[noreturn]] void ServeTransport(const std::string& carrier, int64_t ring_bytes);

// The reader's end, which movers share.
class TransportReader;
absl::StatusOr<std::shared_ptr<TransportReader>> ConnectTransport(const std::string& carrier,
                                                                  const std::string& address, int64_t ring_bytes);
// Pulls: posts a receive for each layer and asks for the encoding; layers arrive one by one. Where `verify`, each unit
// of a layer is checked when the layer has arrived, by the thread that waits for it.
std::unique_ptr<Mover> NewTransportMover(std::shared_ptr<TransportReader> reader, bool verify);

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_TRANSFER_TRANSFER_TRANSPORT_H_
