// Reads a tokenizer.json into a TokenizerDescription. Every key of the supported parts is either understood or named in
// an error, so that no tokenizer is only almost right.
#include "worker/text/tokenizer_json.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "nlohmann/json.hpp"
#include "worker/text/tokenizer_bpe.h"

namespace kvlink::model {
namespace {

using Json = nlohmann::json;

absl::Status Malformed(absl::string_view key, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("key ", key, " ", what));
}

absl::Status Unsupported(absl::string_view key, absl::string_view what) {
  constexpr size_t kMaxShown = 200;
  return absl::UnimplementedError(absl::StrCat("key ", key, ": ", what.substr(0, kMaxShown), " is not supported"));
}

// The member `key`; null if there is none.
const Json& Member(const Json& object, const char* key) {
  static const Json* const null = new Json;
  const auto found = object.find(key);
  return found == object.end() ? *null : *found;
}

absl::string_view View(const Json& text) {
  const std::string& value = text.get_ref<const std::string&>();
  return {value.data(), value.size()};
}

absl::StatusOr<bool> Flag(const Json& object, absl::string_view where, const char* key, bool otherwise) {
  const Json& value = Member(object, key);
  if (value.is_null()) return otherwise;
  if (!value.is_boolean()) return Malformed(absl::StrCat(where, ".", key), "is not true or false");
  return value.get<bool>();
}

// Text of the member `key`, which is required.
absl::StatusOr<absl::string_view> Text(const Json& object, absl::string_view where, const char* key) {
  if (!object.is_object()) return Malformed(where, "is not an object");
  const Json& value = Member(object, key);
  if (!value.is_string()) return Malformed(absl::StrCat(where, ".", key), "is missing or not a string");
  return View(value);
}

absl::StatusOr<int32_t> Id(const Json& value, absl::string_view where) {
  constexpr uint64_t kMaxId = 1 << 24;
  if (!value.is_number_unsigned() || value.get<uint64_t>() >= kMaxId) return Malformed(where, "is not a token id");
  return value.get<int32_t>();
}

// The steps of a normaliser, pre-tokenizer or decoder: the members of a Sequence (not nested), a single step, or none
// if null.
absl::StatusOr<std::vector<const Json*>> Steps(const Json& value, absl::string_view where, const char* members) {
  constexpr size_t kMaxSteps = 16;
  if (value.is_null()) return std::vector<const Json*>();
  KVLINK_ASSIGN_OR_RETURN(const absl::string_view type, Text(value, where, "type"));
  if (type != "Sequence") return std::vector<const Json*>{&value};
  const Json& list = Member(value, members);
  if (!list.is_array()) return Malformed(absl::StrCat(where, ".", members), "is missing or not a list");
  if (list.size() > kMaxSteps) return Unsupported(where, "a sequence of more than 16 steps");
  std::vector<const Json*> steps;
  for (const Json& step : list) steps.push_back(&step);
  return steps;
}

// "pattern": {"String": text}.
absl::StatusOr<absl::string_view> LiteralPattern(const Json& step, absl::string_view where) {
  const Json& pattern = Member(step, "pattern");
  if (!pattern.is_object() || !pattern.contains("String"))
    return Unsupported(where, "a replacement by a regular expression");
  return Text(pattern, absl::StrCat(where, ".pattern"), "String");
}

absl::Status ReadNormalizer(const Json& root, TokenizerDescription& description) {
  constexpr absl::string_view kWhere = "normalizer";
  constexpr size_t kMaxText = 64;  // of inserted text, so that a text cannot grow without bound
  KVLINK_ASSIGN_OR_RETURN(const auto steps, Steps(Member(root, "normalizer"), kWhere, "normalizers"));
  int growing = 0;
  for (const Json* step : steps) {
    KVLINK_ASSIGN_OR_RETURN(const absl::string_view type, Text(*step, kWhere, "type"));
    NormalizeStep out;
    if (type == "NFC") {
      out.kind = NormalizeStep::kCompose;
    } else if (type == "Prepend") {
      KVLINK_ASSIGN_OR_RETURN(const absl::string_view text, Text(*step, kWhere, "prepend"));
      out = {NormalizeStep::kPrepend, "", std::string(text)};
    } else if (type == "Replace") {
      KVLINK_ASSIGN_OR_RETURN(const absl::string_view from, LiteralPattern(*step, kWhere));
      KVLINK_ASSIGN_OR_RETURN(const absl::string_view to, Text(*step, kWhere, "content"));
      if (from.empty()) return Malformed("normalizer.pattern", "is empty");
      if (to.size() > from.size() && ++growing > 2)
        return Unsupported(kWhere, "more than two replacements by longer texts");
      out = {NormalizeStep::kReplace, std::string(from), std::string(to)};
    } else {
      return Unsupported(kWhere, type);
    }
    if (out.to.size() > kMaxText) return Unsupported(kWhere, "a text of more than 64 bytes");
    description.normalizer.push_back(std::move(out));
  }
  return absl::OkStatus();
}

absl::Status ReadMetaspace(const Json& json, absl::string_view where, PieceStep& step) {
  KVLINK_ASSIGN_OR_RETURN(const absl::string_view replacement, Text(json, where, "replacement"));
  if (replacement != kSpaceMark)
    return Unsupported(where, absl::StrCat("the Metaspace replacement \"", replacement, "\""));
  step.kind = PieceStep::kMetaspace;
  KVLINK_ASSIGN_OR_RETURN(step.split_marks, Flag(json, where, "split", true));
  // Files from before 2024 use add_prefix_space.
  KVLINK_ASSIGN_OR_RETURN(const bool add, Flag(json, where, "add_prefix_space", true));
  step.prefix = add ? PieceStep::kAlways : PieceStep::kNever;
  if (!json.contains("prepend_scheme")) return absl::OkStatus();
  KVLINK_ASSIGN_OR_RETURN(const absl::string_view scheme, Text(json, where, "prepend_scheme"));
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    return Unsupported(where, absl::StrCat("the prepend_scheme \"", scheme, "\""));
  }
  step.prefix = scheme == "always" ? PieceStep::kAlways : scheme == "first" ? PieceStep::kFirst : PieceStep::kNever;
  return absl::OkStatus();
}

absl::Status ReadSplit(const Json& json, absl::string_view where, PieceStep& step) {
  const Json& pattern = Member(json, "pattern");
  if (!pattern.is_object() || !pattern.contains("Regex")) return Unsupported(where, "a split at a literal text");
  KVLINK_ASSIGN_OR_RETURN(const absl::string_view regex, Text(pattern, "pre_tokenizer.pattern", "Regex"));
  KVLINK_ASSIGN_OR_RETURN(const absl::string_view behavior, Text(json, where, "behavior"));
  KVLINK_ASSIGN_OR_RETURN(const bool invert, Flag(json, where, "invert", false));
  const auto known = FindSplitPattern(regex);
  if (!known.has_value()) return Unsupported(where, absl::StrCat("the regular expression ", regex));
  // Inverted and kept, or split at matches: the pieces are the same, because each pattern leaves nothing between its
  // matches.
  if (invert || behavior != "Isolated")
    return Unsupported(where, absl::StrCat("the split behaviour ", behavior, invert ? ", inverted," : ""));
  step.pattern = *known;
  return absl::OkStatus();
}

absl::Status ReadPreTokenizer(const Json& root, TokenizerDescription& description) {
  constexpr absl::string_view kWhere = "pre_tokenizer";
  KVLINK_ASSIGN_OR_RETURN(const auto steps, Steps(Member(root, "pre_tokenizer"), kWhere, "pretokenizers"));
  description.byte_level = false;
  for (const Json* json : steps) {
    KVLINK_ASSIGN_OR_RETURN(const absl::string_view type, Text(*json, kWhere, "type"));
    if (description.byte_level) return Unsupported(kWhere, absl::StrCat("the step ", type, " after ByteLevel"));
    PieceStep step;
    if (type == "Digits") {
      KVLINK_ASSIGN_OR_RETURN(const bool individual, Flag(*json, kWhere, "individual_digits", false));
      step.pattern = individual ? SplitPattern::kDigits : SplitPattern::kDigitRuns;
    } else if (type == "Split") {
      KVLINK_RETURN_IF_ERROR(ReadSplit(*json, kWhere, step));
    } else if (type == "ByteLevel") {
      description.byte_level = true;
      KVLINK_ASSIGN_OR_RETURN(const bool prefix, Flag(*json, kWhere, "add_prefix_space", true));
      KVLINK_ASSIGN_OR_RETURN(const bool split, Flag(*json, kWhere, "use_regex", true));
      step.kind = PieceStep::kSpacePrefix;
      if (prefix) description.pieces.push_back(step);
      step.kind = PieceStep::kSplit;
      step.pattern = SplitPattern::kGpt2;
      if (split) description.pieces.push_back(step);
      continue;
    } else if (type == "Metaspace") {
      KVLINK_RETURN_IF_ERROR(ReadMetaspace(*json, kWhere, step));
    } else {
      return Unsupported(kWhere, type);
    }
    description.pieces.push_back(step);
  }
  const bool metaspace = !description.pieces.empty() && description.pieces[0].kind == PieceStep::kMetaspace;
  if (!description.byte_level && !description.pieces.empty() && !(metaspace && description.pieces.size() == 1)) {
    return Unsupported(kWhere, "a sequence without ByteLevel at its end");
  }
  if (description.byte_level) {
    for (const PieceStep& step : description.pieces) {
      if (step.kind == PieceStep::kMetaspace) return Unsupported(kWhere, "Metaspace together with ByteLevel");
    }
  }
  return absl::OkStatus();
}

// Replace, ByteFallback, Fuse, Strip, each optional, in this order.
absl::Status ReadPlainDecoder(const std::vector<const Json*>& steps, TokenizerDescription& description) {
  constexpr absl::string_view kWhere = "decoder";
  int last = -1;
  for (const Json* json : steps) {
    KVLINK_ASSIGN_OR_RETURN(const absl::string_view type, Text(*json, kWhere, "type"));
    int order = 0;
    if (type == "Replace") {
      KVLINK_ASSIGN_OR_RETURN(const absl::string_view from, LiteralPattern(*json, kWhere));
      KVLINK_ASSIGN_OR_RETURN(const absl::string_view to, Text(*json, kWhere, "content"));
      if (from != kSpaceMark || to != " ")
        return Unsupported(kWhere, "a replacement other than of \xE2\x96\x81 by a space");
      description.decode_space_marks = true;
    } else if (type == "ByteFallback") {
      order = 1;
      description.decode_bytes = true;
    } else if (type == "Fuse") {
      order = 2;
    } else if (type == "Strip") {
      order = 3;
      const Json& start = Member(*json, "start");
      const Json& stop = Member(*json, "stop");
      KVLINK_ASSIGN_OR_RETURN(const absl::string_view content, Text(*json, kWhere, "content"));
      if (content != " " || start != 1 || stop != 0 || last != 2)
        return Unsupported(kWhere, "a Strip other than of one space at the front after Fuse");
      description.strip = TokenizerDescription::kOneSpace;
    } else {
      return Unsupported(kWhere, type);
    }
    if (order <= last) return Unsupported(kWhere, "a sequence other than Replace, ByteFallback, Fuse, Strip");
    last = order;
  }
  if (last < 2) return Unsupported(kWhere, "a decoder that does not fuse its tokens");
  return absl::OkStatus();
}

absl::Status ReadDecoder(const Json& root, TokenizerDescription& description) {
  constexpr absl::string_view kWhere = "decoder";
  KVLINK_ASSIGN_OR_RETURN(const auto steps, Steps(Member(root, "decoder"), kWhere, "decoders"));
  std::string only;
  if (steps.size() == 1) {
    KVLINK_ASSIGN_OR_RETURN(const absl::string_view type, Text(*steps[0], kWhere, "type"));
    only = std::string(type);
  }
  if (description.byte_level) {
    return only == "ByteLevel"
               ? absl::OkStatus()
               : Unsupported(kWhere, "a decoder other than ByteLevel after the ByteLevel pre-tokenizer");
  }
  if (only != "Metaspace") return ReadPlainDecoder(steps, description);
  PieceStep step;
  KVLINK_RETURN_IF_ERROR(ReadMetaspace(*steps[0], kWhere, step));
  description.decode_space_marks = true;
  description.strip = step.prefix == PieceStep::kNever ? TokenizerDescription::kKeep : TokenizerDescription::kAllSpaces;
  return absl::OkStatus();
}

absl::Status ReadVocabulary(const Json& model, TokenizerDescription& description) {
  const Json& vocabulary = Member(model, "vocab");
  if (!vocabulary.is_object()) return Malformed("model.vocab", "is missing or not an object");
  for (const auto& [text, value] : vocabulary.items()) {
    const std::string where = absl::StrCat("model.vocab[\"", absl::string_view(text).substr(0, 100), "\"]");
    KVLINK_ASSIGN_OR_RETURN(const int32_t id, Id(value, where));
    // Vocabularies number tokens without large gaps; a huge id would only waste memory.
    if (static_cast<size_t>(id) > vocabulary.size() * 4 + 4096)
      return Malformed(where, absl::StrCat("has the id ", id, ", too large for ", vocabulary.size(), " tokens"));
    if (static_cast<size_t>(id) >= description.tokens.size()) description.tokens.resize(id + 1);
    if (!description.tokens[id].empty()) return Malformed(where, absl::StrCat("has the id ", id, " of another token"));
    description.tokens[id] = text;
  }
  return absl::OkStatus();
}

absl::Status ReadMerges(const Json& model, TokenizerDescription& description) {
  const Json& merges = Member(model, "merges");
  const Json& vocabulary = Member(model, "vocab");
  if (!merges.is_array()) return Malformed("model.merges", "is missing or not a list");
  description.merges.reserve(merges.size());
  const auto id_of = [&](absl::string_view text) -> int32_t {
    const auto found = vocabulary.find(std::string(text));
    return found == vocabulary.end() ? -1 : found->get<int32_t>();
  };
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const Json& merge = merges[rank];
    const std::string where = absl::StrCat("model.merges[", rank, "]");
    std::vector<absl::string_view> parts;
    if (merge.is_string()) {
      parts = absl::StrSplit(View(merge), ' ');
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      parts = {View(merge[0]), View(merge[1])};
    }
    if (parts.size() != 2) return Malformed(where, "is not a pair of tokens");
    TokenizerDescription::Merge out;
    out.rank = static_cast<int32_t>(rank);
    out.left = id_of(parts[0]);
    out.right = id_of(parts[1]);
    out.merged = id_of(absl::StrCat(parts[0], parts[1]));
    if (out.left < 0 || out.right < 0 || out.merged < 0)
      return Malformed(where, "names a token that is not in the vocabulary");
    description.merges.push_back(out);
  }
  return absl::OkStatus();
}

absl::Status ReadModel(const Json& root, TokenizerDescription& description) {
  const Json& model = Member(root, "model");
  if (!model.is_object()) return Malformed("model", "is missing or not an object");
  // Old files omit the type; only BPE has merges.
  if (model.contains("type") || !model.contains("merges")) {
    KVLINK_ASSIGN_OR_RETURN(const absl::string_view type, Text(model, "model", "type"));
    if (type != "BPE") return Unsupported("model.type", type);
  }
  const Json& dropout = Member(model, "dropout");
  if (!dropout.is_null() && dropout != 0.0) return Unsupported("model.dropout", "a value other than null");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const Json& affix = Member(model, key);
    if (!affix.is_null() && affix != "") return Unsupported(absl::StrCat("model.", key), "a text other than \"\"");
  }
  KVLINK_ASSIGN_OR_RETURN(description.ignore_merges, Flag(model, "model", "ignore_merges", false));
  KVLINK_ASSIGN_OR_RETURN(description.byte_fallback, Flag(model, "model", "byte_fallback", false));
  KVLINK_ASSIGN_OR_RETURN(description.fuse_unknown, Flag(model, "model", "fuse_unk", false));
  if (description.byte_level && description.byte_fallback)
    return Unsupported("model.byte_fallback", "byte fallback together with ByteLevel");
  KVLINK_RETURN_IF_ERROR(ReadVocabulary(model, description));
  KVLINK_RETURN_IF_ERROR(ReadMerges(model, description));
  const Json& unknown = Member(model, "unk_token");
  if (unknown.is_null() || unknown == "") return absl::OkStatus();
  if (!unknown.is_string()) return Malformed("model.unk_token", "is not a string");
  const auto found = model["vocab"].find(unknown.get<std::string>());
  if (found == model["vocab"].end()) return Malformed("model.unk_token", "is not in the vocabulary");
  description.unknown = found->get<int32_t>();
  return absl::OkStatus();
}

absl::Status ReadAddedTokens(const Json& root, TokenizerDescription& description) {
  const Json& list = Member(root, "added_tokens");
  if (list.is_null()) return absl::OkStatus();
  if (!list.is_array()) return Malformed("added_tokens", "is not a list");
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string where = absl::StrCat("added_tokens[", i, "]");
    AddedToken token;
    KVLINK_ASSIGN_OR_RETURN(const absl::string_view content, Text(list[i], where, "content"));
    token.content = std::string(content);
    KVLINK_ASSIGN_OR_RETURN(token.id, Id(Member(list[i], "id"), absl::StrCat(where, ".id")));
    KVLINK_ASSIGN_OR_RETURN(token.special, Flag(list[i], where, "special", false));
    KVLINK_ASSIGN_OR_RETURN(token.single_word, Flag(list[i], where, "single_word", false));
    KVLINK_ASSIGN_OR_RETURN(token.lstrip, Flag(list[i], where, "lstrip", false));
    KVLINK_ASSIGN_OR_RETURN(token.rstrip, Flag(list[i], where, "rstrip", false));
    KVLINK_ASSIGN_OR_RETURN(token.normalized, Flag(list[i], where, "normalized", !token.special));
    description.added.push_back(std::move(token));
  }
  return absl::OkStatus();
}

// The first id that a TemplateProcessing (alone or in a Sequence) puts before a text; -1 if none.
int32_t TemplateBos(const Json& processor) {
  std::vector<const Json*> candidates = {&processor};
  if (const Json& list = Member(processor, "processors"); list.is_array()) {
    for (const Json& member : list) candidates.push_back(&member);
  }
  for (const Json* candidate : candidates) {
    const Json& single = Member(*candidate, "single");
    if (!single.is_array() || single.empty()) continue;
    const Json& id = Member(Member(single[0], "SpecialToken"), "id");
    if (!id.is_string()) continue;
    const Json& ids =
        Member(Member(Member(*candidate, "special_tokens"), id.get_ref<const std::string&>().c_str()), "ids");
    if (!ids.is_array() || ids.size() != 1) continue;
    const auto value = Id(ids[0], "post_processor");
    if (value.ok()) return *value;
  }
  return -1;
}

absl::Status ReadBos(const Json& root, absl::string_view tokenizer_config, TokenizerDescription& description) {
  description.bos = TemplateBos(Member(root, "post_processor"));
  if (tokenizer_config.empty()) return absl::OkStatus();
  const Json config = Json::parse(tokenizer_config.begin(), tokenizer_config.end(), nullptr, false);
  if (!config.is_object()) return absl::InvalidArgumentError("tokenizer_config.json is not a JSON object");
  const Json* bos = &Member(config, "bos_token");
  if (bos->is_object()) bos = &Member(*bos, "content");
  if (bos->is_null()) return absl::OkStatus();
  if (!bos->is_string())
    return Malformed("bos_token of tokenizer_config.json", "is neither a string nor an added token");
  for (const AddedToken& token : description.added) {
    if (token.content == View(*bos)) description.bos = token.id;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> ParseTokenizerFiles(absl::string_view tokenizer,
                                                               absl::string_view tokenizer_config) {
  if (static_cast<int64_t>(tokenizer.size()) > kMaxTokenizerJsonBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer.json has ", tokenizer.size(), " bytes, more than ", kMaxTokenizerJsonBytes));
  }
  const Json root = Json::parse(tokenizer.begin(), tokenizer.end(), nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) return absl::InvalidArgumentError("tokenizer.json is not a JSON object");
  TokenizerDescription description;
  KVLINK_RETURN_IF_ERROR(ReadPreTokenizer(root, description));
  KVLINK_RETURN_IF_ERROR(ReadNormalizer(root, description));
  KVLINK_RETURN_IF_ERROR(ReadDecoder(root, description));
  KVLINK_RETURN_IF_ERROR(ReadModel(root, description));
  KVLINK_RETURN_IF_ERROR(ReadAddedTokens(root, description));
  KVLINK_RETURN_IF_ERROR(ReadBos(root, tokenizer_config, description));
  return MakeBpeTokenizer(std::move(description));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> ParseTokenizerJson(absl::string_view json) {
  return ParseTokenizerFiles(json, "");
}

}  // namespace kvlink::model
