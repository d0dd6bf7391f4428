// The names of linkers, on the command line, in profiles and in results.
#include "worker/link/linker.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace kvlink::link {
namespace {

constexpr std::array<absl::string_view, 3> kBaseNames = {"concat", "links", "full"};   // by Linker::Base
constexpr std::array<absl::string_view, 3> kChoiceNames = {"", "blend-", "prophet-"};  // by Linker::Choice
constexpr absl::string_view kPacket = "packet";
constexpr int64_t kMaxHead = 1 << 20;

}  // namespace

absl::StatusOr<Linker> ParseLinker(absl::string_view name) {
  const auto wrong = [name](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat(
        "linker '", name, "': ", why,
        "; use concat, packet, links, full, head-K, blend-R, prophet-P, or several joined by +, for example "
        "packet+links+prophet-5"));
  };
  Linker linker;
  bool has_base = false;
  for (const absl::string_view term : absl::StrSplit(name, '+')) {
    absl::string_view count = term;
    const auto* const base = std::find(kBaseNames.begin(), kBaseNames.end(), term);
    const auto* const choice = std::find_if(kChoiceNames.begin() + 1, kChoiceNames.end(),
                                            [&](absl::string_view one) { return absl::ConsumePrefix(&count, one); });
    if (base != kBaseNames.end()) {
      if (std::exchange(has_base, true)) return wrong("only one of concat, links and full");
      linker.base = static_cast<Linker::Base>(base - kBaseNames.begin());
    } else if (term == kPacket) {
      if (std::exchange(linker.packet, true)) return wrong("only one packet");
    } else if (choice != kChoiceNames.end()) {
      if (linker.choice != Linker::kNone) return wrong("only one of blend and prophet: each chooses all tokens itself");
      linker.choice = static_cast<Linker::Choice>(choice - kChoiceNames.begin());
      if (!absl::SimpleAtoi(count, &linker.percent) || linker.percent < 1 || linker.percent > 100) {
        return wrong("blend and prophet take 1 to 100 percent of the documents' tokens");
      }
    } else if (absl::ConsumePrefix(&count, "head-")) {
      if (linker.head > 0) return wrong("only one head");
      if (!absl::SimpleAtoi(count, &linker.head) || linker.head < 1 || linker.head > kMaxHead) {
        return wrong(absl::StrCat("a head has 1 to ", kMaxHead, " tokens"));
      }
    } else {
      return wrong(absl::StrCat("'", term, "' is unknown"));
    }
  }
  if (linker.packet && has_base && linker.base == Linker::kConcat) {
    return wrong("concat reads documents without their wrapper, packet with it");
  }
  if (linker.base == Linker::kFull && linker != Linker(Linker::kFull))
    return wrong("full computes every token already");
  return linker;
}

std::string LinkerName(Linker linker) {
  std::vector<std::string> terms;
  if (linker.packet) terms.emplace_back(kPacket);
  if (linker.base != Linker::kConcat) terms.emplace_back(kBaseNames[linker.base]);
  if (linker.head > 0) terms.push_back(absl::StrCat("head-", linker.head));
  if (linker.choice != Linker::kNone) terms.push_back(absl::StrCat(kChoiceNames[linker.choice], linker.percent));
  return terms.empty() ? std::string(kBaseNames[Linker::kConcat]) : absl::StrJoin(terms, "+");
}

}  // namespace kvlink::link
