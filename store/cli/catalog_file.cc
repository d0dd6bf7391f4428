// Import reads only the id and the entry of a line. The entry is in the store's format, with its version and checksum,
// so that fields added to entries later need no change here. The rest of a line is for people and their tools.
#include "store/cli/catalog_file.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "nlohmann/json.hpp"
#include "store/store.h"

namespace kvlink::cli {
namespace {

using OrderedJson = nlohmann::ordered_json;
// What is read. The other copies members when it grows, by recursion into lists however deep they are.
using ParsedJson = nlohmann::json;

constexpr int64_t kVersion = 1;

std::string Dump(const OrderedJson& json) { return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace); }

ParsedJson Parse(absl::string_view line) {
  return ParsedJson::parse(line.begin(), line.end(), /*cb=*/nullptr, /*allow_exceptions=*/false);
}

absl::Status Bad(absl::string_view what) { return absl::InvalidArgumentError(what); }

// Whether the object has the field, and it is true.
bool Says(const ParsedJson& object, const char* name) {
  const auto field = object.find(name);
  return field != object.end() && field->is_boolean() && field->get<bool>();
}

}  // namespace

std::string CatalogHead(absl::string_view ns) {
  return Dump({{"kvlink_catalog", kVersion}, {"namespace", std::string(ns)}, {"marks_last", true}});
}

std::string CatalogLine(absl::string_view id, const CatalogEntry& entry) {
  int64_t tokens = 0;
  for (const CatalogPart& part : entry.parts) tokens += static_cast<int64_t>(part.tokens.size());
  return Dump({{"id", std::string(id)},
               {"title", entry.title},
               {"generation", entry.generation},
               {"parts", entry.parts.size()},
               {"tokens", tokens},
               {"entry", absl::Base64Escape(SerializeCatalogEntry(entry))}});
}

std::string LastCatalogLine(std::string line) {
  line.pop_back();
  return line + R"(,"last":true})";
}

absl::StatusOr<CatalogFileHead> ParseCatalogHead(absl::string_view line) {
  const ParsedJson head = Parse(line);
  const auto version = head.is_object() ? head.find("kvlink_catalog") : head.end();
  if (version == head.end() || !version->is_number_integer()) {
    return Bad("not a catalog file; write one with kvlink catalog export");
  }
  if (*version == kVersion) return CatalogFileHead{Says(head, "marks_last"), Says(head, "last")};
  return absl::UnimplementedError(
      absl::StrCat("catalog version ", version->dump(), "; this build reads version ", kVersion));
}

absl::StatusOr<CatalogFileLine> ParseCatalogLine(absl::string_view line) {
  const ParsedJson json = Parse(line);
  if (!json.is_object()) return Bad("not a JSON object");
  const auto id = json.find("id"), entry = json.find("entry");
  if (id == json.end() || !id->is_string() || entry == json.end() || !entry->is_string()) {
    return Bad("\"id\" or \"entry\" is missing or not a string");
  }
  store::DocumentPut put;
  put.id = id->get<std::string>();
  KVLINK_RETURN_IF_ERROR(store::ValidateName("document id", put.id));
  std::string bytes;
  if (!absl::Base64Unescape(entry->get_ref<const std::string&>(), &bytes)) return Bad("\"entry\" is not base64");
  KVLINK_ASSIGN_OR_RETURN(put.entry, ParseCatalogEntry(bytes));
  if (put.entry.tombstone) return Bad("the entry is a deletion, which no export contains");
  return CatalogFileLine{std::move(put), Says(json, "last")};
}

}  // namespace kvlink::cli
