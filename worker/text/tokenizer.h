// Text to token ids and back: byte-level BPE (GPT-2, SmolLM, Llama-3, Qwen2 pre-tokenizers) and SentencePiece BPE with
// byte fallback, parsed from a tokenizer.json. worker/files/open_tokenizer.h makes one from a GGUF or a path.
//
// Thread-safety: a Tokenizer is immutable and may be used by many threads; a StreamDecoder by one at a time. Errors:
// UNIMPLEMENTED for a pre-tokenizer, normaliser or model type that we do not reproduce exactly (never a silent
// fallback); INVALID_ARGUMENT for a malformed description, naming the key.
#ifndef KVLINK_WORKER_TEXT_TOKENIZER_H_
#define KVLINK_WORKER_TEXT_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace kvlink::model {

// A piece of text, and whether control tokens are recognised in it. Text of users and documents is never trusted.
struct TextSpan {
  std::string text;
  bool trusted = false;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual int64_t vocab_size() const = 0;
  // Returns the token ids of valid UTF-8 text. With `parse_special`, added tokens marked special match in the text;
  // without it they are ordinary characters (added tokens that are not special always match, as in the reference, but
  // not one whose id spells other bytes: in a byte-level vocabulary "é" is the byte E9). Adds no BOS. Without
  // `parse_special` no text produces a special token, except the unknown token. INVALID_ARGUMENT with the byte offset
  // for invalid UTF-8.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text, bool parse_special) const = 0;
  // Like Encode, for text directly after the token `previous`: SentencePiece adds its word-initial space only at the
  // start and after added tokens. With byte-level vocabularies there is no difference.
  virtual absl::StatusOr<std::vector<int32_t>> EncodeAfter(int32_t previous, absl::string_view text,
                                                           bool parse_special) const {
    return Encode(text, parse_special);
  }
  // The exact bytes of one token; special tokens as their text ("<|im_end|>"). Empty for ids out of range.
  virtual std::string TokenBytes(int32_t id) const = 0;
  // The same for a token that begins a text: without the space that SentencePiece's Encode adds.
  virtual std::string FirstTokenBytes(int32_t id) const { return TokenBytes(id); }
  // The text of `ids`, without special tokens if `skip_special`. Bytes that are not valid UTF-8 become U+FFFD, one for
  // each maximal subpart of a sequence.
  virtual std::string Decode(absl::Span<const int32_t> ids, bool skip_special) const = 0;
  // Finds a token by its exact text: an added token's content, or an ordinary token in the vocabulary's spelling
  // ("Ġthe").
  virtual std::optional<int32_t> TokenId(absl::string_view text) const = 0;
  // Never of what spells a byte of text, even if the vocabulary calls it a control token: nothing else does.
  virtual bool IsSpecial(int32_t id) const = 0;
  virtual std::optional<int32_t> bos() const = 0;
};

// Encodes consecutive spans: control tokens match only in trusted spans, and no token crosses from one trust level to
// the other. Neighbouring spans of equal trust are joined first.
absl::StatusOr<std::vector<int32_t>> EncodeSpans(const Tokenizer& tokenizer, absl::Span<const TextSpan> spans);

// Streams text: holds back an incomplete UTF-8 sequence until it is complete or cannot become valid. The concatenated
// results of Push and Finish equal Decode(ids, false); to omit special tokens, do not push them. `tokenizer` must
// outlive the object.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer* tokenizer) : tokenizer_(tokenizer) {}
  // Returns the text completed by this token.
  std::string Push(int32_t id);
  // Returns the rest, with incomplete sequences as U+FFFD.
  std::string Finish();

 private:
  const Tokenizer* tokenizer_;
  std::string pending_;
  bool first_ = true;
};

// Parses the bytes of a tokenizer.json.
absl::StatusOr<std::unique_ptr<Tokenizer>> ParseTokenizerJson(absl::string_view json);

}  // namespace kvlink::model

#endif  // KVLINK_WORKER_TEXT_TOKENIZER_H_
