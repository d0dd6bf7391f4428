// The GGUF container (github.com/ggml-org/ggml), version 3 little-endian, as views into its
// bytes:
//
//   "GGUF"  u32 version  u64 tensors  u64 keys
//   keys x    {string key, u32 type, value}          string = u64 length, bytes; array = u32 type, u64 count, values
//   tensors x {string name, u32 rank, u64 sizes[rank] (innermost first), u32 type, u64 offset}
//   padding to general.alignment (32), then tensor data, each tensor at its offset from here
//
// Parse checks everything: counts and lengths against the bytes present, names for unique UTF-8, tensors for lying
// within the file, alignment and overlap. Memory use is proportional to the bytes given. Thread-safety: immutable after
// Parse. Lifetime: a GgufFile refers to the bytes it was parsed from.
#ifndef KVLINK_WORKER_FILES_GGUF_H_
#define KVLINK_WORKER_FILES_GGUF_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/files/config.h"
#include "worker/files/weights.h"

namespace kvlink::model {

class GgufFile {
 public:
  // INVALID_ARGUMENT with the byte offset for malformed input; UNIMPLEMENTED for another version or byte order, or for
  // an unsupported tensor type, naming the tensor.
  static absl::StatusOr<GgufFile> Parse(absl::Span<const std::byte> bytes);

  // In file order; shapes outermost first.
  const std::vector<SourceTensor>& tensors() const { return tensors_; }
  const SourceTensor* FindTensor(absl::string_view name) const;

  bool Has(absl::string_view key) const { return values_.contains(key); }
  // nullopt if the key is missing; INVALID_ARGUMENT if it has another type (Integer accepts any integer type, Number
  // any numeric type).
  absl::StatusOr<std::optional<int64_t>> Integer(absl::string_view key) const;
  absl::StatusOr<std::optional<double>> Number(absl::string_view key) const;
  absl::StatusOr<std::optional<bool>> Bool(absl::string_view key) const;
  absl::StatusOr<std::optional<absl::string_view>> String(absl::string_view key) const;
  absl::StatusOr<std::optional<std::vector<absl::string_view>>> Strings(absl::string_view key) const;
  absl::StatusOr<std::optional<std::vector<double>>> Numbers(absl::string_view key) const;

 private:
  struct Value {
    uint32_t type = 0;
    uint32_t element_type = 0;  // of an array
    uint64_t count = 0;         // of an array
    absl::Span<const std::byte> bytes;
  };
  class Parser;
  const Value* Find(absl::string_view key) const;

  absl::flat_hash_map<std::string, Value> values_;
  std::vector<SourceTensor> tensors_;
  absl::flat_hash_map<std::string, size_t> tensor_index_;
};

// Returns the configuration of the model. UNIMPLEMENTED for an unsupported architecture, rope or extension.
absl::StatusOr<ModelConfig> GgufModelConfig(const GgufFile& file);
// A GGUF's tokenizer (keys tokenizer.ggml.*).
struct GgufTokenizer {
  std::string model;  // "gpt2" (byte-level BPE) or "llama" (SentencePiece BPE)
  std::string pre;    // "smollm", "llama-bpe", "qwen2", "default", "gpt-2", ...
  std::vector<std::string> tokens;
  std::vector<float> scores;         // SentencePiece
  std::vector<int32_t> token_types;  // 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte
  std::vector<std::string> merges;   // "a b"
  int32_t bos = -1;
  int32_t unknown = -1;
  bool add_space_prefix = true;  // SentencePiece
};
// INVALID_ARGUMENT without a model or tokens.
absl::StatusOr<GgufTokenizer> GgufTokenizerOf(const GgufFile& file);
// The same from a file on disk; messages name the file.
absl::StatusOr<GgufTokenizer> ReadGgufTokenizer(const std::string& path);

}  // namespace kvlink::model

#endif  // KVLINK_WORKER_FILES_GGUF_H_
