#include "worker/serve/trace/context.h"

#include <cstring>
#include <optional>
#include <random>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace kvlink::serve {
namespace {

constexpr size_t kParentLength = 55;     // of version 00: "00-", 32 digits, "-", 16 digits, "-", 2 digits
constexpr size_t kMaxStateLength = 512;  // what has to be passed on at least
constexpr size_t kMaxStateMembers = 32;
constexpr size_t kMaxKeyLength = 256, kMaxValueLength = 256;
constexpr uint8_t kSampled = 1;  // of the flags

// Where specifications want hexadecimal digits, they want lower case.
bool IsHex(absl::string_view text) {
  return absl::c_all_of(text, [](char c) { return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f'); });
}

// REQUIRES: `text` is as many pairs of digits as the id has bytes.
template <class Id>
Id FromHex(absl::string_view text) {
  Id id;
  const std::string bytes = absl::HexStringToBytes(text);
  std::memcpy(id.data(), bytes.data(), id.size());
  return id;
}

template <class Id>
bool IsNone(const Id& id) {
  return absl::c_all_of(id, [](uint8_t byte) { return byte == 0; });
}

template <class Id>
Id NewId() {
  thread_local std::mt19937_64 random{std::random_device{}()};
  Id id;
  do {
    for (size_t i = 0; i < id.size(); i += sizeof(uint64_t)) {
      const uint64_t word = random();
      std::memcpy(id.data() + i, &word, sizeof(word));
    }
  } while (IsNone(id));
  return id;
}

template <class Id>
std::string Hex(const Id& id) {
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(id.data()), id.size()));
}

bool ParseParent(absl::string_view text, TraceContext* context) {
  if (text.size() < kParentLength || text[2] != '-' || text[35] != '-' || text[52] != '-') return false;
  const absl::string_view version = text.substr(0, 2), trace = text.substr(3, 32), parent = text.substr(36, 16),
                          flags = text.substr(53, 2);
  if (!IsHex(version) || version == "ff" || !IsHex(trace) || !IsHex(parent) || !IsHex(flags)) return false;
  // Later versions may say more, behind what this one says.
  if (text.size() > kParentLength && (version == "00" || text[kParentLength] != '-')) return false;
  context->trace = FromHex<TraceId>(trace);
  context->parent = FromHex<SpanId>(parent);
  context->sampled = (static_cast<uint8_t>(absl::HexStringToBytes(flags)[0]) & kSampled) != 0;
  return !IsNone(context->trace) && !IsNone(context->parent);
}

bool IsKey(absl::string_view key) {
  if (key.empty() || key.size() > kMaxKeyLength) return false;
  const auto letter = [](char c) { return c >= 'a' && c <= 'z'; };
  if (!letter(key[0]) && !absl::ascii_isdigit(key[0])) return false;
  return absl::c_all_of(key, [&](char c) {
    return letter(c) || absl::ascii_isdigit(c) || absl::StrContains("_-*/@", absl::string_view(&c, 1));
  });
}

bool IsValue(absl::string_view value) {
  return !value.empty() && value.size() <= kMaxValueLength && value.back() != ' ' &&
         absl::c_all_of(value, [](char c) { return c >= 0x20 && c <= 0x7e && c != ',' && c != '='; });
}

// The list as it is passed on; nullopt if it is malformed, or longer than has to be passed on.
std::optional<std::string> ParseState(absl::string_view text) {
  std::vector<absl::string_view> keys;
  std::string state;
  for (absl::string_view member : absl::StrSplit(text, ',')) {
    member = absl::StripAsciiWhitespace(member);
    if (member.empty()) continue;
    const size_t equals = member.find('=');
    if (equals == absl::string_view::npos) return std::nullopt;
    const absl::string_view key = member.substr(0, equals);
    if (!IsKey(key) || !IsValue(member.substr(equals + 1)) || absl::c_linear_search(keys, key)) return std::nullopt;
    keys.push_back(key);
    absl::StrAppend(&state, state.empty() ? "" : ",", member);
  }
  if (keys.size() > kMaxStateMembers || state.size() > kMaxStateLength) return std::nullopt;
  return state;
}

}  // namespace

TraceId NewTraceId() { return NewId<TraceId>(); }
SpanId NewSpanId() { return NewId<SpanId>(); }
std::string ToHex(const TraceId& id) { return Hex(id); }
std::string ToHex(const SpanId& id) { return Hex(id); }

TraceContext TraceContext::Of(const std::vector<std::pair<std::string, std::string>>& headers, double ratio) {
  TraceContext context;
  int parents = 0;
  std::string state;  // several headers are one list
  for (const auto& [name, value] : headers) {
    if (name == "traceparent" && ++parents == 1) {
      context.given = ParseParent(absl::StripAsciiWhitespace(value), &context);
    } else if (name == "tracestate") {
      absl::StrAppend(&state, state.empty() ? "" : ",", value);
    }
  }
  if (parents == 1 && context.given) {
    context.state = ParseState(state).value_or("");
  } else {
    context = {};
    context.trace = NewTraceId();
    uint64_t random = 0;
    std::memcpy(&random, context.trace.data(), sizeof(random));
    context.sampled = static_cast<double>(random >> 11) < ratio * 0x1p53;
  }
  context.span = NewSpanId();
  return context;
}

std::string TraceContext::ToParent() const {
  return absl::StrCat("00-", ToHex(trace), "-", ToHex(span), sampled ? "-01" : "-00");
}

}  // namespace kvlink::serve
