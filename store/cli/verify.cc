// kvlink verify: the scrub.
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/cli/args.h"
#include "base/cli/progress.h"
#include "base/status.h"
#include "store/cli/commands.h"
#include "store/cli/place.h"

namespace kvlink::cli {

absl::Status RunVerify(absl::Span<char* const> args) {
  StoreFlags flags;
  flags.memory = int64_t{64} << 20;
  Arguments arguments(
      "verify", "",
      "Reads every encoding of the store back and checks each unit against its checksum, and the index\n"
      "against itself. A damaged encoding is named and no longer served: the next request for it encodes\n"
      "it again. The status is 1 if anything is damaged.");
  AddPlaceFlags(arguments, flags);
  KVLINK_RETURN_IF_ERROR(arguments.Parse(args));
  if (arguments.help_wanted()) return absl::OkStatus();
  if (!arguments.operands().empty()) {
    return absl::InvalidArgumentError("it takes no operands; name the store with --store");
  }
  KVLINK_ASSIGN_OR_RETURN(const auto store, OpenStore(flags, StoreUse::kExisting));
  ProgressBar bar;
  const auto report = store->Verify([&bar](int64_t done, int64_t total) {
    const double seconds = std::max(1e-3, absl::ToDoubleSeconds(bar.elapsed()));
    bar.Update(total > 0 ? static_cast<double>(done) / static_cast<double>(total) : -1,
               absl::StrCat(FormatBytes(static_cast<double>(done)), "  ",
                            FormatBytes(static_cast<double>(done) / seconds), "/s"));
    return true;
  });
  bar.Clear();
  KVLINK_RETURN_IF_ERROR(Annotate(report.status(), flags.store));
  for (const auto& damage : report->damaged) {
    const std::string documents = damage.documents.empty() ? "none" : absl::StrJoin(damage.documents, ", ");
    std::printf("damaged: namespace %s, documents %s, encoding %s, codec %s: %s\n", damage.ns.c_str(),
                documents.c_str(), damage.identity.Hex().c_str(), std::string(CodecName(damage.codec)).c_str(),
                damage.what.c_str());
  }
  for (const std::string& problem : report->index_problems) std::printf("index: %s\n", problem.c_str());
  std::printf("%lld encodings, %s checked: %zu damaged, %zu problems of the index\n",
              static_cast<long long>(report->encodings), FormatBytes(static_cast<double>(report->bytes)).c_str(),
              report->damaged.size(), report->index_problems.size());
  std::fflush(stdout);
  if (report->damaged.empty() && report->index_problems.empty()) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(flags.store, ": ", report->damaged.size() + report->index_problems.size(),
                   " problems found; damaged encodings are no longer served, ingest their documents "
                   "again"));
}

}  // namespace kvlink::cli
