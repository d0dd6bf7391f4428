// The only implementation of Tokenizer: added tokens, normaliser, pre-tokenizer, merges and decoder, as given by a
// description. Private to worker/text and worker/files; the readers of tokenizer.json and GGUF fill in the description.
#ifndef KVLINK_WORKER_TEXT_TOKENIZER_BPE_H_
#define KVLINK_WORKER_TEXT_TOKENIZER_BPE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/text/bpe.h"
#include "worker/text/tokenizer.h"
#include "worker/text/tokenizer_added.h"
#include "worker/text/tokenizer_split.h"

namespace kvlink::model {

// "▁", U+2581: how SentencePiece writes a space.
inline constexpr absl::string_view kSpaceMark = "\xE2\x96\x81";

// One step of the normaliser. kPrepend puts `to` before non-empty text; kReplace replaces each `from` by `to`.
struct NormalizeStep {
  enum Kind { kCompose, kPrepend, kReplace } kind = kCompose;
  std::string from, to;
};

// One step of the pre-tokenizer. kSpacePrefix puts a space before pieces that do not begin with one; kMetaspace writes
// spaces as kSpaceMark.
struct PieceStep {
  enum Kind { kSplit, kSpacePrefix, kMetaspace } kind = kSplit;
  SplitPattern pattern = SplitPattern::kGpt2;
  enum Prefix { kNever, kFirst, kAlways } prefix = kNever;  // kMetaspace: where to put kSpaceMark in front
  bool split_marks = false;                                 // kMetaspace: a piece begins at each kSpaceMark
};

struct TokenizerDescription {
  // The vocabulary's spelling of text: byte-level (each byte a printable character, as in GPT-2), or plain characters
  // with kSpaceMark.
  bool byte_level = true;
  std::vector<std::string> tokens;  // by id, in the vocabulary's spelling; empty: no such token
  struct Merge {
    int32_t left, right, rank, merged;
  };
  std::vector<Merge> merges;
  bool ignore_merges = false;  // a word in the vocabulary is one token
  bool byte_fallback = false;  // a character outside the vocabulary becomes tokens "<0xNN>"
  bool fuse_unknown = false;   // one unknown token for a run of unknown characters
  int32_t unknown = -1;        // -1: unknown characters are dropped, as the reference does
  std::vector<AddedToken> added;
  std::vector<NormalizeStep> normalizer;
  std::vector<PieceStep> pieces;
  // Decoder of plain vocabularies.
  bool decode_space_marks = false, decode_bytes = false;
  enum Strip { kKeep, kOneSpace, kAllSpaces } strip = kKeep;  // what the first token loses at its start
  int32_t bos = -1;
};

// INVALID_ARGUMENT if ids are out of range or two tokens share an id or a text.
absl::StatusOr<std::unique_ptr<Tokenizer>> MakeBpeTokenizer(TokenizerDescription description);

// The byte-level alphabet (GPT-2): byte b is written as the character ByteCharacter(b). UnspellBytes returns the bytes
// of a token in that spelling; nullopt if it has a character outside the alphabet.
char32_t ByteCharacter(uint8_t byte);
std::optional<std::string> UnspellBytes(absl::string_view spelled);

}  // namespace kvlink::model

#endif  // KVLINK_WORKER_TEXT_TOKENIZER_BPE_H_
