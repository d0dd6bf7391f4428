// Tokenizers described by GGUF files: translates the names of pre-tokenizers into their steps.
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "worker/files/open_tokenizer.h"
#include "worker/text/sentencepiece.h"
#include "worker/text/tokenizer_bpe.h"

namespace kvlink::model {
namespace {

struct NamedPreTokenizer {
  absl::string_view name;  // tokenizer.ggml.pre
  std::vector<PieceStep> pieces;
  bool compose = false, ignore_merges = false;
};

// The steps that each name stands for in published models. Converters omit the normaliser: Qwen2's is NFC.
const std::vector<NamedPreTokenizer>& NamedPreTokenizers() {
  const auto split = [](SplitPattern pattern) { return PieceStep{PieceStep::kSplit, pattern}; };
  static const auto* const table = new std::vector<NamedPreTokenizer>{
      {"gpt-2", {split(SplitPattern::kGpt2)}},
      {"smollm", {split(SplitPattern::kDigits), split(SplitPattern::kGpt2)}},
      {"llama-bpe", {split(SplitPattern::kLlama3)}, false, true},
      {"llama3", {split(SplitPattern::kLlama3)}, false, true},
      {"llama-v3", {split(SplitPattern::kLlama3)}, false, true},
      {"qwen2", {split(SplitPattern::kQwen2)}, true, false},
      {"deepseek-r1-qwen", {split(SplitPattern::kQwen2)}, true, false},
  };
  return *table;
}

absl::Status UseByteLevel(const GgufTokenizer& gguf, TokenizerDescription& description) {
  const NamedPreTokenizer* known = nullptr;
  for (const NamedPreTokenizer& candidate : NamedPreTokenizers()) {
    if (candidate.name == gguf.pre) known = &candidate;
  }
  if (known == nullptr) {
    return absl::UnimplementedError(
        absl::StrCat("key tokenizer.ggml.pre: the pre-tokenizer \"", gguf.pre, "\" is not supported"));
  }
  description.byte_level = true;
  description.pieces = known->pieces;
  description.ignore_merges = known->ignore_merges;
  if (known->compose) description.normalizer.push_back({NormalizeStep::kCompose, "", ""});

  absl::flat_hash_map<absl::string_view, int32_t> ids;
  for (size_t id = 0; id < gguf.tokens.size(); ++id) ids.try_emplace(gguf.tokens[id], static_cast<int32_t>(id));
  description.merges.reserve(gguf.merges.size());
  for (size_t rank = 0; rank < gguf.merges.size(); ++rank) {
    const std::vector<absl::string_view> parts = absl::StrSplit(gguf.merges[rank], ' ');
    const auto id_of = [&](absl::string_view text) {
      const auto found = ids.find(text);
      return found == ids.end() ? -1 : found->second;
    };
    TokenizerDescription::Merge merge{-1, -1, static_cast<int32_t>(rank), -1};
    if (parts.size() == 2) {
      merge.left = id_of(parts[0]);
      merge.right = id_of(parts[1]);
      merge.merged = id_of(absl::StrCat(parts[0], parts[1]));
    }
    if (merge.left < 0 || merge.right < 0 || merge.merged < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("key tokenizer.ggml.merges: entry ", rank,
                       " is not a pair of tokens of the vocabulary that has a merged token"));
    }
    description.merges.push_back(merge);
  }
  return absl::OkStatus();
}

absl::Status UseSentencePiece(const GgufTokenizer& gguf, const std::vector<int32_t>& types,
                              TokenizerDescription& description) {
  if (gguf.scores.size() != gguf.tokens.size()) {
    return absl::InvalidArgumentError(absl::StrCat("key tokenizer.ggml.scores has ", gguf.scores.size(),
                                                   " entries for ", gguf.tokens.size(), " tokens"));
  }
  description.byte_level = false;
  description.byte_fallback = true;
  description.fuse_unknown = true;
  description.unknown = gguf.unknown;
  for (size_t id = 0; id < types.size() && description.unknown < 0; ++id) {
    if (types[id] == kUnknown) description.unknown = static_cast<int32_t>(id);
  }
  if (gguf.add_space_prefix) {
    description.normalizer.push_back({NormalizeStep::kPrepend, "", " "});
    description.strip = TokenizerDescription::kOneSpace;
  }
  description.normalizer.push_back({NormalizeStep::kReplace, " ", std::string(kSpaceMark)});
  description.decode_space_marks = true;
  description.decode_bytes = true;
  KVLINK_ASSIGN_OR_RETURN(description.merges, MergesFromScores(gguf.tokens, gguf.scores, types));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeGgufTokenizer(GgufTokenizer gguf) {
  if (gguf.tokens.empty()) return absl::InvalidArgumentError("key tokenizer.ggml.tokens is missing or empty");
  std::vector<int32_t> types = std::move(gguf.token_types);
  if (types.empty()) types.assign(gguf.tokens.size(), kNormal);
  if (types.size() != gguf.tokens.size()) {
    return absl::InvalidArgumentError(absl::StrCat("key tokenizer.ggml.token_type has ", types.size(), " entries for ",
                                                   gguf.tokens.size(), " tokens"));
  }
  TokenizerDescription description;
  if (gguf.model == "gpt2") {
    KVLINK_RETURN_IF_ERROR(UseByteLevel(gguf, description));
  } else if (gguf.model == "llama") {
    KVLINK_RETURN_IF_ERROR(UseSentencePiece(gguf, types, description));
  } else {
    return absl::UnimplementedError(absl::StrCat("key tokenizer.ggml.model: \"", gguf.model, "\" is not supported"));
  }
  for (size_t id = 0; id < types.size(); ++id) {
    const bool special = types[id] == kControl || (types[id] == kUnknown && gguf.model == "llama");
    if (!special && types[id] != kUserDefined) continue;
    AddedToken token;
    token.content = gguf.tokens[id];
    token.id = static_cast<int32_t>(id);
    token.special = special;
    description.added.push_back(std::move(token));
  }
  description.bos = gguf.bos;
  description.tokens = std::move(gguf.tokens);
  return MakeBpeTokenizer(std::move(description));
}

}  // namespace kvlink::model
