// Checks the text of a schema: everything behind it may take time and memory by the square of a list.
#include "worker/grammar/schema.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "worker/grammar/schema_rules.h"
#include "worker/grammar/schema_tree.h"

namespace kvlink::grammar {
namespace {

// Of a text that may not be JSON.
int DepthOf(absl::string_view text) {
  int depth = 0, deepest = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      quoted = c != '"';
    } else if (c == '"') {
      quoted = true;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

absl::Status CheckEntries(const Place& place) {
  if (!place.json->is_structured()) return absl::OkStatus();
  if (place.json->size() > kMaxEntries) {
    return place.Refuse(absl::StrCat("has ", place.json->size(), " entries; may have ", kMaxEntries));
  }
  if (place.json->is_array()) {
    for (size_t i = 0; i < place.json->size(); ++i) KVLINK_RETURN_IF_ERROR(CheckEntries(place.At(i)));
    return absl::OkStatus();
  }
  for (const auto& [name, value] : place.json->items()) {
    KVLINK_RETURN_IF_ERROR(CheckEntries({&value, PointerBelow(place.pointer, name)}));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Grammar> CompileSchema(absl::string_view schema, const ByteSet& bytes) {
  if (schema.size() > kMaxSchemaBytes) {
    return absl::InvalidArgumentError(absl::StrCat("#: has ", schema.size(), " bytes; may have ", kMaxSchemaBytes));
  }
  if (DepthOf(schema) > kMaxSchemaDepth) {
    return absl::InvalidArgumentError(absl::StrCat("#: is nested deeper than ", kMaxSchemaDepth, " lists and objects"));
  }
  const Json json = Json::parse(schema.begin(), schema.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return absl::InvalidArgumentError("#: is not JSON");
  KVLINK_RETURN_IF_ERROR(CheckEntries({&json, "#"}));
  return SchemaRules(&json, bytes).Compile();
}

}  // namespace kvlink::grammar
