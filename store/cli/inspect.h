// The part of kvlink inspect that shows the contents of a store. `kvlink` adds models.
// Thread-safety: one thread at a time.
#ifndef KVLINK_STORE_CLI_INSPECT_H_
#define KVLINK_STORE_CLI_INSPECT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/cli/args.h"
#include "store/cli/place.h"

namespace kvlink::cli {

struct InspectFlags {
  InspectFlags() { store.memory = int64_t{64} << 20; }  // nothing is read
  StoreFlags store;
  int64_t limit = 0;  // on listed documents; 0: none
  bool units = false;
  bool json = false;
};

// --store, --key-file, --namespace, --limit, --units, --json.
void AddInspectFlags(Arguments& arguments, InspectFlags& flags);
// `operands`: "store", "documents", or "document" and its id. INVALID_ARGUMENT for anything else; NOT_FOUND naming the
// document; errors of OpenStore.
absl::Status Inspect(const std::vector<std::string>& operands, const InspectFlags& flags);

}  // namespace kvlink::cli

#endif  // KVLINK_STORE_CLI_INSPECT_H_
