// Pushes into an engine, like a node.
#ifndef KVLINK_TESTS_STORE_PUSH_H_
#define KVLINK_TESTS_STORE_PUSH_H_

#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"
#include "base/status.h"
#include "store/engine/engine.h"
#include "tests/store/synthetic.h"

namespace kvlink::testing {

inline engine::EncodingKey KeyOf(const Synthetic& s, const std::string& ns = "ns") {
  return {ns, s.manifest.identity, s.manifest.codec};
}

inline std::vector<int64_t> LengthsOf(const Synthetic& s) {
  std::vector<int64_t> lengths;
  for (const LayerManifest& layer : s.manifest.layers) lengths.push_back(layer.length);
  return lengths;
}

// Begins and fills a push; the padding gets bytes that a hostile or careless sender could leave there.
inline absl::StatusOr<std::unique_ptr<engine::StreamingPut>> FillPush(
    engine::Engine* engine, const engine::EncodingKey& key, const Synthetic& s,
    engine::PutMode mode = engine::PutMode::kKeepExisting) {
  KVLINK_ASSIGN_OR_RETURN(auto push, engine->BeginPush(key, LengthsOf(s), mode));
  for (size_t layer = 0; layer < s.slabs.size(); ++layer) {
    if (s.manifest.layers[layer].length == 0) continue;
    KVLINK_RETURN_IF_ERROR(push->Reserve(static_cast<int64_t>(layer)));
    const absl::Span<std::byte> slab = push->slab(layer);
    std::memset(slab.data(), 0xee, slab.size());
    std::memcpy(slab.data(), s.slabs[layer].data(), s.manifest.shape(layer).used_bytes());
  }
  return push;
}

// Accepts, writes and commits it, and waits for the outcome. DEADLINE_EXCEEDED: it hangs; INTERNAL: reported twice.
inline absl::StatusOr<engine::Engine::PutOutcome> CommitFilledPush(engine::Engine* engine,
                                                                   std::unique_ptr<engine::StreamingPut> push,
                                                                   const Manifest& manifest) {
  // Outlives this call, in case the outcome still arrives later.
  struct Outcome {
    Mutex mutex;
    CondVar ended;
    std::optional<absl::StatusOr<engine::Engine::PutOutcome>> given ABSL_GUARDED_BY(mutex);
    int calls ABSL_GUARDED_BY(mutex) = 0;
  };
  const auto outcome = std::make_shared<Outcome>();
  KVLINK_RETURN_IF_ERROR(push->Accept(manifest));
  for (size_t layer = 0; layer < manifest.layers.size(); ++layer) {
    if (manifest.layers[layer].length > 0 && !push->WriteLayer(static_cast<int64_t>(layer)).ok()) break;
  }
  engine->CommitPush(std::move(push), [outcome](absl::StatusOr<engine::Engine::PutOutcome> given) {
    MutexLock lock(&outcome->mutex);
    outcome->given = std::move(given);
    ++outcome->calls;
    outcome->ended.Signal();
  });
  MutexLock lock(&outcome->mutex);
  const absl::Time deadline = SteadyNow() + absl::Seconds(60);
  while (!outcome->given.has_value() && SteadyNow() < deadline) outcome->ended.WaitUntil(&outcome->mutex, deadline);
  if (outcome->calls > 1) return absl::InternalError("the outcome of a push was told twice");
  if (!outcome->given.has_value()) return absl::DeadlineExceededError("a push hangs");
  return *outcome->given;
}

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_STORE_PUSH_H_
