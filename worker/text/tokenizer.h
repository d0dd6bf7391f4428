// Text to token ids and back: byte-level BPE (GPT-2, SmolLM, Llama-3, Qwen2 pre-tokenizers) and SentencePiece BPE with
// byte fallback, parsed from a tokenizer.json. worker/files/open_tokenizer.h makes one from a GGUF or a path.
//
// Thread-safety: a Tokenizer is immutable and may be used from many threads; a StreamDecoder by one at a time.
// Errors: UNIMPLEMENTED for a pre-tokenizer, normaliser or model type we do not reproduce exactly (never a silent
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

// A piece of text and whether control tokens may be recognised in it. Text of users and documents is never trusted.
struct TextSpan {
  std::string text;
  bool trusted = false;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual int64_t vocab_size() const = 0;
  // Token ids of valid UTF-8 text. `parse_special`: added tokens marked special match in the text; otherwise they are
  // ordinary characters (added tokens that are not special match always, as in the reference). No BOS is added.
  // Without `parse_special` no text gives a special token, except the unknown token and one that spells a single byte.
  // INVALID_ARGUMENT with the byte offset for invalid UTF-8.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text, bool parse_special) const = 0;
  // As Encode, for text that stands directly after the token `previous`: SentencePiece puts its word-initial space in
  // front of text only at the start and after added tokens. Byte-level vocabularies make no difference.
  virtual absl::StatusOr<std::vector<int32_t>> EncodeAfter(int32_t previous, absl::string_view text,
                                                           bool parse_special) const {
    return Encode(text, parse_special);
  }
  // Exact bytes of one token, special tokens included as their text ("<|im_end|>"). Empty for ids out of range.
  virtual std::string TokenBytes(int32_t id) const = 0;
  // The same where the token begins a text: without the space that SentencePiece's Encode puts in front.
  virtual std::string FirstTokenBytes(int32_t id) const { return TokenBytes(id); }
  // Text of `ids`. Special tokens are left out when `skip_special`. Bytes that are not valid UTF-8 become U+FFFD, one
  // for each maximal subpart of a sequence.
  virtual std::string Decode(absl::Span<const int32_t> ids, bool skip_special) const = 0;
  // Id of a token by its exact text: an added token's content, or an ordinary one as the vocabulary spells it ("Ġthe").
  virtual std::optional<int32_t> TokenId(absl::string_view text) const = 0;
  virtual bool IsSpecial(int32_t id) const = 0;
  virtual std::optional<int32_t> bos() const = 0;
};

// Encodes spans one after another: control tokens match only in trusted spans, and a token never crosses from one trust
// level to the other. Neighbouring spans of equal trust are joined first.
absl::StatusOr<std::vector<int32_t>> EncodeSpans(const Tokenizer& tokenizer, absl::Span<const TextSpan> spans);

// Streams text: holds back bytes of an incomplete UTF-8 sequence until it is complete or cannot become valid. All that
// Push and Finish returned, joined, is Decode(ids, false): leave special tokens out by not pushing them. `tokenizer`
// must outlive it.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer* tokenizer) : tokenizer_(tokenizer) {}
  // Text that became certain with this token.
  std::string Push(int32_t id);
  // The rest, incomplete sequences as U+FFFD.
  std::string Finish();

 private:
  const Tokenizer* tokenizer_;
  std::string pending_;
  bool first_ = true;
};

// From the bytes of a tokenizer.json.
absl::StatusOr<std::unique_ptr<Tokenizer>> ParseTokenizerJson(absl::string_view json);

}  // namespace kvlink::model

#endif  // KVLINK_WORKER_TEXT_TOKENIZER_H_
