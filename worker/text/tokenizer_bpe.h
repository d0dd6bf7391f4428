// The one tokenizer behind Tokenizer: added tokens, normaliser, pre-tokenizer, merges and decoder as a description
// says. Private to worker/text and worker/files; readers of tokenizer.json and of GGUF fill the description.
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

// Normaliser, one step. kPrepend puts `to` before text that is not empty; kReplace writes `to` for each `from`.
struct NormalizeStep {
  enum Kind { kCompose, kPrepend, kReplace } kind = kCompose;
  std::string from, to;
};

// Pre-tokenizer, one step. kSpacePrefix puts a space before pieces that do not begin with one; kMetaspace writes spaces
// as kSpaceMark.
struct PieceStep {
  enum Kind { kSplit, kSpacePrefix, kMetaspace } kind = kSplit;
  SplitPattern pattern = SplitPattern::kGpt2;
  enum Prefix { kNever, kFirst, kAlways } prefix = kNever;  // kMetaspace: where kSpaceMark is put in front
  bool split_marks = false;                                 // kMetaspace: a piece begins at each kSpaceMark
};

struct TokenizerDescription {
  // How the vocabulary spells text: byte-level (each byte a printable character, as in GPT-2) or plain characters with
  // kSpaceMark.
  bool byte_level = true;
  std::vector<std::string> tokens;  // by id, in the vocabulary's spelling; empty: no such token
  struct Merge {
    int32_t left, right, rank, merged;
  };
  std::vector<Merge> merges;
  bool ignore_merges = false;  // a word that is in the vocabulary is one token
  bool byte_fallback = false;  // a character that is not becomes tokens "<0xNN>"
  bool fuse_unknown = false;   // one unknown token for a run of unknown characters
  int32_t unknown = -1;        // -1: unknown characters are dropped, as the reference does
  std::vector<AddedToken> added;
  std::vector<NormalizeStep> normalizer;
  std::vector<PieceStep> pieces;
  // Decoder of plain vocabularies.
  bool decode_space_marks = false, decode_bytes = false;
  enum Strip { kKeep, kOneSpace, kAllSpaces } strip = kKeep;  // what the first token loses at its front
  int32_t bos = -1;
};

// INVALID_ARGUMENT if ids are out of range or two tokens share an id or a text.
absl::StatusOr<std::unique_ptr<Tokenizer>> MakeBpeTokenizer(TokenizerDescription description);

// The byte-level alphabet (GPT-2): byte b is written as the character ByteCharacter(b). Bytes of a token in that
// spelling; nullopt if it has a character outside the alphabet.
char32_t ByteCharacter(uint8_t byte);
std::optional<std::string> UnspellBytes(absl::string_view spelled);

}  // namespace kvlink::model

#endif  // KVLINK_WORKER_TEXT_TOKENIZER_BPE_H_
