#include "store/cli/doctor/doctor.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/cli/json.h"
#include "base/cli/standard_streams.h"
#include "base/cli/table.h"
#include "base/status.h"
#include "nlohmann/json.hpp"
#include "store/cli/commands.h"
#include "store/cli/doctor/disk.h"
#include "store/cli/doctor/host.h"
#include "store/cli/place.h"

namespace kvlink::cli {
namespace {

absl::string_view HealthName(Health health) {
  switch (health) {
    case Health::kOk:
      return "ok";
    case Health::kWarning:
      return "warning";
    case Health::kError:
      return "error";
  }
  return "";
}

// "never: page tables cost time; to mend it: echo ..."
std::string Words(const Finding& finding) {
  return Printable(absl::StrCat(finding.value, finding.effect.empty() ? "" : ": ", finding.effect,
                                finding.mend.empty() ? "" : "; to mend it: ", finding.mend));
}

nlohmann::json ToJson(const Finding& finding) {
  return {{"what", finding.what},
          {"health", std::string(HealthName(finding.health))},
          {"value", finding.value},
          {"effect", finding.effect},
          {"mend", finding.mend}};
}

}  // namespace

std::string DoctorSummary(absl::string_view more) {
  return absl::StrCat(
      "Shows what this machine gives KVLink and what it withholds, a line for each thing: its value, what\n"
      "that gains or costs, and how to mend it. Examines processors, memory, huge pages, io_uring, limits\n"
      "and what UCX can use; with --store the disk, on which a small file is written and removed",
      more, ".\n\nThe exit status is 1 only if KVLink cannot work.");
}

void AddDoctorFlags(Arguments& arguments, DoctorFlags& flags) {
  arguments.Text("store", "DIR", "Also examine the disk of this directory, where a store is or will be.", &flags.store);
  AddJsonFlag(arguments, &flags.json);
}

absl::Status CheckDoctorFlags(const Arguments& arguments, const DoctorFlags& flags) {
  if (!arguments.operands().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("unexpected operand '", arguments.operands()[0], "'; name a directory with --store"));
  }
  if (flags.store.empty()) return absl::OkStatus();
  KVLINK_ASSIGN_OR_RETURN(const bool node, IsNode(flags.store));
  if (!node) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("option --store: ", flags.store, " is the address of a node; name a ",
                                                 "directory of this machine, or ask the node with kvlink status"));
}

std::vector<Finding> Examine(const DoctorFlags& flags) {
  std::vector<Finding> findings = ExamineHost();
  if (flags.store.empty()) return findings;
  for (Finding& finding : ExamineDisk(flags.store)) findings.push_back(std::move(finding));
  return findings;
}

absl::Status Report(const std::vector<Finding>& findings, bool json) {
  nlohmann::json all = nlohmann::json::array();
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string> errors;
  for (const Finding& finding : findings) {
    all.push_back(ToJson(finding));
    rows.push_back({std::string(HealthName(finding.health)), finding.what, Words(finding)});
    if (finding.health == Health::kError) errors.push_back(finding.what);
  }
  if (json) {
    PrintJson({{"findings", std::move(all)}, {"usable", errors.empty()}});
  } else {
    absl::PrintF("%s", TableText(rows, {true, true, true}));
  }
  if (errors.empty()) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat("KVLink cannot work like this: ", absl::StrJoin(errors, ", ")));
}

absl::Status RunDoctorStore(absl::Span<char* const> args) {
  DoctorFlags flags;
  Arguments arguments("doctor", "", DoctorSummary(""));
  AddDoctorFlags(arguments, flags);
  KVLINK_RETURN_IF_ERROR(arguments.Parse(args));
  if (arguments.help_wanted()) return absl::OkStatus();
  KVLINK_RETURN_IF_ERROR(CheckDoctorFlags(arguments, flags));
  return Report(Examine(flags), flags.json);
}

}  // namespace kvlink::cli
