// JSON schemas and what is written by them. Input: a schema; after a zero byte, bytes that are written where they fit.
// Whatever is compiled has no dead end, and each text that may end is JSON; whatever is refused says so shortly.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "base/utf8.h"
#include "nlohmann/json.hpp"
#include "worker/grammar/schema.h"
#include "worker/grammar/stacks.h"

namespace {

using kvlink::grammar::Stacks;

void Check(bool right) {
  if (!right) std::abort();
}

// Every stack goes on.
void CheckTops(const kvlink::grammar::Grammar& grammar, const Stacks& stacks) {
  Check(stacks.ended() || !stacks.tops().empty());
  for (const Stacks::Top& top : stacks.tops()) {
    bool goes_on = false;
    for (const auto& edge : grammar.edges(top.state)) {
      goes_on = goes_on || top.depth + grammar.need(edge.to) <= kvlink::grammar::Grammar::kMaxDepth;
    }
    Check(goes_on);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view input(reinterpret_cast<const char*>(data), size);
  const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(input, absl::MaxSplits('\0', 1));
  const auto grammar = kvlink::grammar::CompileSchema(parts.first);
  if (!grammar.ok()) {
    const absl::string_view message = grammar.status().message();
    Check(absl::IsInvalidArgument(grammar.status()) && absl::StartsWith(message, "#") && message.size() < 512);
    Check(kvlink::ValidUtf8Prefix(message) == message.size());
    return 0;
  }
  Stacks stacks(&*grammar);
  std::string text;
  CheckTops(*grammar, stacks);
  for (const char byte : parts.second.substr(0, 256)) {
    if (!stacks.Push(static_cast<uint8_t>(byte))) continue;
    text += byte;
    stacks.Settle();
    CheckTops(*grammar, stacks);
    if (stacks.ended()) Check(nlohmann::json::accept(text));
  }
  return 0;
}
