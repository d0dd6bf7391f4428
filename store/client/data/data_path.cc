#include "store/client/data/data_path.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace kvlink::store::client {

absl::StatusOr<std::string> DataAddress(absl::Span<const std::string> data, absl::string_view scheme,
                                        absl::string_view address) {
  for (const std::string& one : data) {
    const size_t mark = one.find("://");
    if (mark == std::string::npos || (!scheme.empty() && absl::string_view(one).substr(0, mark) != scheme)) continue;
    const absl::string_view target = absl::string_view(one).substr(mark + 3);
    if (!absl::StartsWith(target, ":")) return std::string(target);
    return absl::StrCat(address.substr(0, address.rfind(':')), target);
  }
  return absl::NotFoundError(absl::StrCat("the node serves no data over ", scheme.empty() ? "any carrier" : scheme));
}

absl::StatusOr<std::unique_ptr<DataPath>> DataPath::Create(Carrier carrier, const RemoteOptions& options,
                                                           ClientResources* resources, Control* control,
                                                           ClientCounters* counters, RequestSource* source) {
  std::string name = "transport", scheme;
  std::shared_ptr<TransportMemory> memory;
  if (options.transport != nullptr) {
    memory = resources->OfTransport(options.transport);
  } else {
    name = scheme = std::string(CarrierName(carrier));
    KVLINK_ASSIGN_OR_RETURN(memory, resources->OfCarrier(carrier, options.tls));
  }
  std::unique_ptr<DataPath> path(new DataPath(std::move(name), std::move(memory)));
  path->channel_ = std::make_unique<NodeChannel>(
      control, counters, options.connect_timeout,
      [transport = path->memory_->transport().get(), scheme, source, fixed = options.data_address,
       address = options.address, tls = options.tls.enabled()](
          const OpenedSession& session, absl::Time deadline) -> absl::StatusOr<std::shared_ptr<NodeConnection>> {
        std::string target = fixed;
        if (target.empty()) {
          auto named = DataAddress(session.data, scheme, address);
          if (!named.ok()) return absl::UnavailableError(named.status().message());
          // With TLS, use the control service's address, since its certificate is for the name that the user gave.
          target = scheme == "grpc" && tls ? address : *std::move(named);
        }
        auto connection = std::make_shared<NodeConnection>(source, nullptr);
        auto carrier = transport->ConnectAs(session.token, target, connection, deadline);
        if (!carrier.ok()) {
          return absl::Status(carrier.status().code(),
                              absl::StrCat("nothing answers at ", target, ": ", carrier.status().message()));
        }
        connection->Bind(*std::move(carrier));
        return connection;
      });
  return path;
}

}  // namespace kvlink::store::client
