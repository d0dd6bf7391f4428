// The bytes of a tokenizer's tokens as a trie, in which a grammar is followed along all tokens at once.
//
// Thread-safety: immutable. Lifetime: the tokenizer outlives it.
#ifndef KVLINK_WORKER_GRAMMAR_VOCABULARY_H_
#define KVLINK_WORKER_GRAMMAR_VOCABULARY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "worker/grammar/grammar.h"
#include "worker/text/tokenizer.h"

namespace kvlink::grammar {

class Vocabulary {
 public:
  // A longer token is left out: its text can be written by others.
  static constexpr size_t kMaxTokenBytes = 512;

  // In the order of their bytes, each before those that it begins. Nodes from the next one to `end` are below this one.
  struct Node {
    uint32_t end = 0;
    uint32_t tokens = 0;  // where its own begin; the next node's are behind them
    uint16_t depth = 0;   // bytes from the root, which is node 0
    uint8_t byte = 0;     // the last of them
  };

  // Without special tokens and those that stand for no bytes.
  explicit Vocabulary(const model::Tokenizer& tokenizer);

  int64_t size() const { return size_; }  // ids
  // Without the last one, which only ends the list.
  uint32_t nodes() const { return static_cast<uint32_t>(nodes_.size()) - 1; }
  const Node& node(uint32_t i) const { return nodes_[i]; }
  // Tokens that end at a node.
  absl::Span<const int32_t> tokens(uint32_t node) const {
    return absl::MakeConstSpan(tokens_).subspan(nodes_[node].tokens, nodes_[node + 1].tokens - nodes_[node].tokens);
  }
  // Bytes that are tokens by themselves. Whatever a grammar of these has to write next can be written: no state of it
  // is a dead end.
  const ByteSet& bytes() const { return bytes_; }
  // Of a token in the trie; empty for others.
  std::string Bytes(int32_t token) const;

 private:
  const model::Tokenizer& tokenizer_;
  const int64_t size_;
  std::vector<Node> nodes_;  // and one behind the last
  std::vector<int32_t> tokens_;
  ByteSet bytes_;
};

}  // namespace kvlink::grammar

#endif  // KVLINK_WORKER_GRAMMAR_VOCABULARY_H_
