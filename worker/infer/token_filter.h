// Which tokens may continue an answer, for one that must keep to a form such as JSON.
//
// Thread-safety: a filter by one thread at a time; NewTokenFilter by many. A filter's state depends on nothing but the
// tokens of its answer, in their order.
#ifndef KVLINK_WORKER_INFER_TOKEN_FILTER_H_
#define KVLINK_WORKER_INFER_TOKEN_FILTER_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/types/span.h"

namespace kvlink::infer {

class TokenFilter {
 public:
  virtual ~TokenFilter() = default;
  // Sets the bit of each token that may come next (token t: bit t % 32 of bits[t / 32]) and clears all others. bits:
  // [ceil(vocab / 32)]. What it says of the end-of-sequence set is ignored. If no token may come and the answer may not
  // end either, the answer fails.
  virtual void Allowed(absl::Span<uint32_t> bits) = 0;
  // The next token of the answer: one of those allowed, never one of the end-of-sequence set.
  virtual void Accept(int32_t token) = 0;
  // Whether the answer may end here.
  virtual bool MayEnd() const = 0;
};

// Makes the filter of one answer, at its beginning: Request::filter. A request may have several answers.
using NewTokenFilter = std::function<std::shared_ptr<TokenFilter>()>;

}  // namespace kvlink::infer

#endif  // KVLINK_WORKER_INFER_TOKEN_FILTER_H_
