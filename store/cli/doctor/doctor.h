// kvlink doctor: what a machine gives KVLink and what it withholds. This is the part that needs no model: the host, and
// the directory of a store. `kvlink` adds arithmetic, GPU and model.
// Thread-safety: one thread at a time.
#ifndef KVLINK_STORE_CLI_DOCTOR_DOCTOR_H_
#define KVLINK_STORE_CLI_DOCTOR_DOCTOR_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/cli/args.h"
#include "store/cli/doctor/finding.h"

namespace kvlink::cli {

struct DoctorFlags {
  std::string store;  // a directory; empty: none is examined
  bool json = false;
};

// What the command does, for its help; `more`: what else a program examines.
std::string DoctorSummary(absl::string_view more);
// --store and --json.
void AddDoctorFlags(Arguments& arguments, DoctorFlags& flags);
// INVALID_ARGUMENT: there are operands, or --store is the address of a node.
absl::Status CheckDoctorFlags(const Arguments& arguments, const DoctorFlags& flags);
// The host, and the directory if there is one.
std::vector<Finding> Examine(const DoctorFlags& flags);
// Prints the findings. ABORTED: KVLink cannot work with some of them, which it names.
absl::Status Report(const std::vector<Finding>& findings, bool json);

}  // namespace kvlink::cli

#endif  // KVLINK_STORE_CLI_DOCTOR_DOCTOR_H_
