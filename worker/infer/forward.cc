// One forward pass of the generator: which rows read which segments, waiting for layers, observing.
#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "worker/infer/engine_internal.h"

namespace kvlink::infer {

// Lists each segment once, however many conversations read it: encodings first, then private KV.
struct Generator::Assembly {
  model::BatchArrays arrays;
  Residents residents;  // encodings of the pass
  Residents arriving;   // those of `residents` with layers still to arrive
  Residents compared;   // with keys and values of the pass

  explicit Assembly(absl::Span<Rows* const> all) {
    std::vector<int64_t> first;
    for (const Rows* rows : all) {
      first.push_back(arrays.AddRows(rows->tokens, rows->positions, rows->slots));
      AddLogits(*rows, first.back());
      FindEncodings(*rows);
    }
    AddEncodings();
    for (size_t i = 0; i < all.size(); ++i) AddReads(*all[i], first[i]);
    for (size_t i = 0; i < all.size(); ++i) {
      arrays.AddPrivate(all[i]->conversation->sequence_, first[i], static_cast<int64_t>(all[i]->tokens.size()));
    }
    std::stable_sort(arrays.reads.begin(), arrays.reads.end(),
                     [](const kernels::KvRead& a, const kernels::KvRead& b) { return a.segment < b.segment; });
  }

  // Adds the mass of an observed pass, which lists one read after another, to that of each document's tokens.
  void AddMass(const Rows& rows, absl::Span<const float> mass) const {
    for (const kernels::KvRead& read : arrays.reads) {
      const kernels::KvSegment& segment = arrays.segments[read.segment];
      const absl::Span<const float> of_read = mass.first(segment.tokens);
      mass.remove_prefix(segment.tokens);
      if (segment.positions != nullptr) continue;  // private
      const std::vector<Conversation::Read>& all = rows.conversation->reads_;
      const auto it = std::find_if(all.begin(), all.end(), [&](const auto& one) { return one.offset == read.offset; });
      std::vector<float>& observed = (*rows.observed)[it->document];
      for (size_t token = 0; token < of_read.size(); ++token) observed[token] += of_read[token];
    }
  }

 private:
  void AddLogits(const Rows& rows, int64_t first) {
    const auto count = static_cast<int64_t>(rows.tokens.size());
    if (rows.scores != nullptr) {
      for (int64_t i = 0; i < count; ++i) arrays.logits_rows.push_back(first + i);
    } else if (rows.sample) {
      arrays.logits_rows.push_back(first + count - 1);
    }
  }

  // Whether the segment begins before the last row.
  static bool Reaches(const Rows& rows, const Conversation::Read& read) {
    return !rows.positions.empty() && rows.positions.back() >= read.offset;
  }

  void FindEncodings(const Rows& rows) {
    for (const Conversation::Read& read : rows.conversation->reads_) {
      if (!Reaches(rows, read)) continue;
      if (rows.observe == link::Observe::kDeviation) compared.push_back(read.resident);
      if (read.visible) residents.push_back(read.resident);
    }
  }

  // In the order of their identities: a row adds up what it reads in the order of segments, so its result, to the bit,
  // does not depend on what else is in the batch.
  void AddEncodings() {
    std::sort(residents.begin(), residents.end(), [](const auto& a, const auto& b) {
      return std::pair(a->identity(), a.get()) < std::pair(b->identity(), b.get());
    });
    residents.erase(std::unique(residents.begin(), residents.end()), residents.end());
    for (const std::shared_ptr<Resident>& resident : residents) {
      index_[resident.get()] = static_cast<int32_t>(arrays.segments.size());
      arrays.segments.push_back(resident->segment());
      if (!resident->ready()) arriving.push_back(resident);
    }
  }

  void AddReads(const Rows& rows, int64_t first_row) {
    for (const Conversation::Read& read : rows.conversation->reads_) {
      if (!read.visible || !Reaches(rows, read)) continue;
      arrays.AddRead(index_.at(read.resident.get()), rows.positions, first_row, read.offset,
                     read.hidden.empty() ? nullptr : read.hidden.data());
    }
  }

  absl::flat_hash_map<const Resident*, int32_t> index_;
};

std::unique_ptr<Generator::Context> Generator::TakeContext() {
  {
    MutexLock lock(&mutex_);
    if (!contexts_.empty()) {
      std::unique_ptr<Context> context = std::move(contexts_.back());
      contexts_.pop_back();
      return context;
    }
  }
  auto context = std::make_unique<Context>();
  context->forward = model_->NewContext();
  context->stream = model_->backend()->NewStream();
  return context;
}

void Generator::GiveContext(std::unique_ptr<Context> context) {
  MutexLock lock(&mutex_);
  contexts_.push_back(std::move(context));
}

absl::Status Generator::Forward(absl::Span<Rows* const> rows, const Call& call, Residents* useless) {
  KVLINK_RETURN_IF_ERROR(call.Check());
  const Assembly assembly(rows);
  const Rows& first = *rows[0];  // the only one of a pass that is observed
  model::ForwardBatch batch = assembly.arrays.Batch(pages_.get());
  if (!options_.link_embeddings.empty()) {
    const int64_t hidden = model_->config().hidden;
    batch.extra_embeddings =
        kernels::Tensor::Dense(link_embeddings_.data(), kernels::Dtype::kF32, model_->backend()->device(),
                               {static_cast<int64_t>(options_.link_embeddings.size()) / hidden, hidden});
  }
  if (assembly.arriving.empty()) batch.graph_rows = options_.graph_rows;
  batch.layers = first.layers;
  std::vector<float> mass;
  if (first.observe == link::Observe::kKeyMass) {
    batch.key_mass = {first.first_observer, static_cast<int64_t>(first.tokens.size()) - first.first_observer, &mass};
  }
  batch.before_layer = [&](int64_t layer) -> absl::Status {
    KVLINK_RETURN_IF_ERROR(call.Check());
    return WaitLayer(assembly.arriving, layer, call, useless);
  };
  std::unique_ptr<Context> context = TakeContext();
  const model::ForwardContext::Graphs before = context->forward->graphs();
  absl::StatusOr<kernels::Tensor> logits = model_->Forward(*context->forward, batch);
  CountGraphs(before, context->forward->graphs());
  absl::Status status = logits.status();
  for (int64_t layer = 0; layer < first.layers && status.ok(); ++layer) {
    status = WaitLayer(assembly.compared, layer, call, useless);
  }
  if (status.ok() && !assembly.compared.empty()) status = ObserveDeviation(*context, first);
  // Check before publishing any result of the pass. A pass that failed may also have failed because of such bytes.
  if (useless->empty()) {
    for (const auto* const read : {&assembly.residents, &assembly.compared}) {
      for (const std::shared_ptr<Resident>& resident : *read) {
        if (!resident->intact()) useless->push_back(resident);
      }
    }
    if (!useless->empty()) status = absl::AbortedError("the store revoked encodings while they were being read");
  }
  if (status.ok()) status = Sample(*context, rows, *logits);
  if (status.ok() && !mass.empty()) assembly.AddMass(first, mass);
  // Discard streams that lacked memory when they were created, or whose device failed: they stay unusable.
  if (!absl::IsResourceExhausted(status) && !absl::IsInternal(status)) GiveContext(std::move(context));
  return status;
}

absl::Status Generator::ObserveDeviation(Context& context, const Rows& rows) {
  kernels::Backend& backend = *model_->backend();
  const auto count = static_cast<int64_t>(rows.tokens.size());
  const int64_t bytes = count * static_cast<int64_t>(sizeof(int64_t));
  KVLINK_RETURN_IF_ERROR(Grow(backend, 3 * bytes, &context.observed));
  auto* const memory = static_cast<std::byte*>(context.observed.data());
  const auto part = [&](int64_t index, kernels::Dtype dtype) {
    return kernels::Tensor::Dense(memory + index * bytes, dtype, backend.device(), {count});
  };
  const kernels::Tensor tokens = part(0, kernels::Dtype::kI64), slots = part(1, kernels::Dtype::kI64);
  const kernels::Tensor deviations = part(2, kernels::Dtype::kF32);
  // Rows of a document are its tokens that are computed again.
  struct Compared {
    const Conversation::Read* read;
    int64_t begin, end;
  };
  std::vector<Compared> compared;
  std::vector<int64_t> token_of(count);
  for (const Conversation::Read& read : rows.conversation->reads_) {
    const auto row_at = [&](int64_t position) {
      return std::lower_bound(rows.positions.begin(), rows.positions.end(), position) - rows.positions.begin();
    };
    const Compared one{&read, row_at(read.offset), row_at(read.offset + read.resident->tokens())};
    for (int64_t row = one.begin; row < one.end; ++row) token_of[row] = rows.positions[row] - read.offset;
    if (one.begin < one.end) compared.push_back(one);
  }
  std::vector<float> deviation_of(count);
  const auto launch = [&]() -> absl::Status {
    KVLINK_RETURN_IF_ERROR(backend.CopyIn(*context.stream, token_of.data(), tokens.data, bytes));
    KVLINK_RETURN_IF_ERROR(backend.CopyIn(*context.stream, rows.slots.data(), slots.data, bytes));
    for (const Compared& one : compared) {
      const int64_t of_read = one.end - one.begin;
      kernels::KvDeviationArgs args;
      args.segment = one.read->resident->segment();
      args.layer = rows.layers - 1;
      args.offset = one.read->offset;
      args.rope = &model_->rope();
      args.tokens = tokens.Slice(one.begin, of_read);
      args.slots = slots.Slice(one.begin, of_read);
      args.pages = pages_->layer(args.layer);
      args.out = deviations.Slice(one.begin, of_read);
      KVLINK_RETURN_IF_ERROR(backend.KvDeviation(*context.stream, args));
    }
    return backend.CopyOut(*context.stream, deviations.data, deviation_of.data(), deviations.bytes);
  };
  const absl::Status launched = launch();
  // Wait even after an error: launched work uses the memory above.
  const absl::Status finished = context.stream->Synchronize();
  KVLINK_RETURN_IF_ERROR(launched);
  KVLINK_RETURN_IF_ERROR(finished);
  for (const Compared& one : compared) {
    std::vector<float>& observed = (*rows.observed)[one.read->document];
    for (int64_t row = one.begin; row < one.end; ++row) observed[token_of[row]] = deviation_of[row];
  }
  return absl::OkStatus();
}

void Generator::CountGraphs(const model::ForwardContext::Graphs& before, const model::ForwardContext::Graphs& now) {
  MutexLock lock(&mutex_);
  stats_.graphs += now.launched - before.launched;
  stats_.graphs_failed += now.failed - before.failed;
}

}  // namespace kvlink::infer
