// kvlink verify: reads everything back. Reports damage by the documents it affects, since these are what a user can
// ingest again.
#include <cstdio>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/cli/args.h"
#include "base/cli/json.h"
#include "base/cli/progress.h"
#include "base/cli/standard_streams.h"
#include "base/status.h"
#include "nlohmann/json.hpp"
#include "store/cli/catalog_walk.h"
#include "store/cli/commands.h"
#include "store/cli/place.h"

namespace kvlink::cli {
namespace {

constexpr absl::string_view kVerifySummary =
    "Reads back every encoding in the store, checks each unit against its checksum, and checks the index\n"
    "for consistency. Damaged encodings are listed with their documents and no longer served; the next\n"
    "request encodes them again. The exit status is 6 if anything is damaged. Documents without an\n"
    "encoding are counted but are not damage: a store at its capacity evicts.";

using Name = std::pair<std::string, Identity>;  // namespace, identity

struct CatalogFindings {
  int64_t documents = 0;
  int64_t without_encoding = 0;
  std::map<Name, std::vector<std::string>> of_damage;  // ids of the documents of each damaged encoding
};

absl::StatusOr<CatalogFindings> LookThroughCatalog(store::Store& store, const store::VerifyReport& report) {
  CatalogFindings findings;
  for (const auto& damage : report.damaged) findings.of_damage[{damage.ns, damage.identity}];
  KVLINK_ASSIGN_OR_RETURN(const store::StoreStats stats, store.Stats());
  for (const store::NamespaceStats& ns : stats.namespaces) {
    KVLINK_RETURN_IF_ERROR(WalkCatalog(store, ns.name, [&](absl::Span<const Listed> documents) -> absl::Status {
      KVLINK_ASSIGN_OR_RETURN(const std::vector<bool> have, HaveEncodings(store, ns.name, documents));
      for (size_t i = 0; i < documents.size(); ++i) {
        ++findings.documents;
        findings.without_encoding += have[i] ? 0 : 1;
        for (const CatalogPart& part : documents[i].entry.parts) {
          const auto damaged = findings.of_damage.find({ns.name, part.identity});
          if (damaged != findings.of_damage.end()) damaged->second.push_back(documents[i].info.id);
        }
      }
      return absl::OkStatus();
    }));
  }
  return findings;
}

// "documents 'a', 'b' and 3 more".
std::string Documents(const std::vector<std::string>& ids) {
  constexpr size_t kMaxNamed = 10;
  if (ids.empty()) return "no document";
  std::vector<std::string> quoted;
  for (size_t i = 0; i < ids.size() && i < kMaxNamed; ++i) quoted.push_back(absl::StrCat("'", Printable(ids[i]), "'"));
  return absl::StrCat(ids.size() == 1 ? "document " : "documents ", absl::StrJoin(quoted, ", "),
                      ids.size() > kMaxNamed ? absl::StrCat(" and ", ids.size() - kMaxNamed, " more") : "");
}

nlohmann::json ToJson(const store::VerifyReport& report, const CatalogFindings& findings) {
  nlohmann::json damaged = nlohmann::json::array();
  for (const auto& damage : report.damaged) {
    damaged.push_back({{"namespace", damage.ns},
                       {"documents", findings.of_damage.at({damage.ns, damage.identity})},
                       {"identity", damage.identity.Hex()},
                       {"codec", std::string(CodecName(damage.codec))},
                       {"problem", damage.what}});
  }
  return {{"encodings", report.encodings},
          {"bytes", report.bytes},
          {"damaged", damaged},
          {"index_problems", report.index_problems},
          {"documents", findings.documents},
          {"documents_without_encoding", findings.without_encoding}};
}

void Print(const store::VerifyReport& report, const CatalogFindings& findings, bool json) {
  if (json) return PrintJson(ToJson(report, findings));
  for (const auto& damage : report.damaged) {
    absl::PrintF("damaged: namespace %s, %s, encoding %s, codec %s: %s\n", Printable(damage.ns),
                 Documents(findings.of_damage.at({damage.ns, damage.identity})), damage.identity.Hex(),
                 CodecName(damage.codec), Printable(damage.what));
  }
  for (const std::string& problem : report.index_problems) absl::PrintF("index: %s\n", Printable(problem));
  absl::PrintF("%d encodings, %s checked: %d damaged, %d index problems\n", report.encodings,
               FormatBytes(static_cast<double>(report.bytes)), report.damaged.size(), report.index_problems.size());
  if (findings.without_encoding > 0) {
    absl::PrintF("%d of %d documents have no encoding; the next request encodes them again\n",
                 findings.without_encoding, findings.documents);
  }
}

}  // namespace

absl::Status RunVerify(absl::Span<char* const> args) {
  StoreFlags flags;
  flags.memory = int64_t{64} << 20;
  Arguments arguments("verify", "", kVerifySummary);
  AddPlaceFlags(arguments, flags);
  arguments.Flag("drop-missing",
                 "For a directory: forget the encodings in missing segment files. Use it only if the files are lost; a "
                 "file system that is not mounted looks the same.",
                 &flags.drop_missing);
  bool json = false;
  AddJsonFlag(arguments, &json);
  KVLINK_RETURN_IF_ERROR(arguments.Parse(args));
  if (arguments.help_wanted()) return absl::OkStatus();
  if (!arguments.operands().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("unexpected operand '", arguments.operands()[0], "'; name the store with --store"));
  }
  KVLINK_ASSIGN_OR_RETURN(const OpenedStore opened, OpenStore(flags, StoreUse::kExisting));
  store::Store* const store = opened.store.get();
  ProgressBar bar;
  const auto report = store->Verify([&bar](int64_t done, int64_t total) {
    const double seconds = std::max(1e-3, absl::ToDoubleSeconds(bar.elapsed()));
    bar.Update(total > 0 ? static_cast<double>(done) / static_cast<double>(total) : -1,
               absl::StrCat(FormatBytes(static_cast<double>(done)), "  ",
                            FormatBytes(static_cast<double>(done) / seconds), "/s"));
    return true;
  });
  bar.Clear();
  KVLINK_RETURN_IF_ERROR(Annotate(report.status(), PlaceName(flags)));
  const auto findings = LookThroughCatalog(*store, *report);
  if (!findings.ok()) {  // damaged encodings are dropped by now, so no later run would name them
    CatalogFindings none;
    for (const auto& damage : report->damaged) none.of_damage[{damage.ns, damage.identity}];
    Print(*report, none, json);
    return Annotate(findings.status(), PlaceName(flags));
  }
  Print(*report, *findings, json);
  if (report->damaged.empty() && report->index_problems.empty()) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(
      PlaceName(flags), ": ", report->damaged.size() + report->index_problems.size(),
      " problems found; damaged encodings are no longer served, so ingest the documents named above again"));
}

}  // namespace kvlink::cli
