// Losses are computed over at most kLossRows rows of the vocabulary at a time, and each such chunk is differentiated at
// once down to the hidden states: logits of a whole pack would take gigabytes.
//
// AdamW as PyTorch defines it, written out because its state has to be saved, restored and compared.
#include "worker/train/learner.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/thread.h"
#include "worker/data/random.h"
#include "worker/train/network.h"
#include "worker/train/tensor.h"

namespace kvlink::train {
namespace {

constexpr int64_t kLossRows = 512;

NamedTensor ToNamed(const std::string& name, const at::Tensor& tensor) {
  const at::Tensor host = tensor.detach().to(at::kCPU, at::kFloat).contiguous();
  NamedTensor named{name, host.sizes().vec(), std::vector<float>(static_cast<size_t>(host.numel()))};
  std::memcpy(named.values.data(), host.data_ptr<float>(), named.values.size() * sizeof(float));
  return named;
}

class TorchLearner final : public Learner {
 public:
  TorchLearner(std::unique_ptr<Network> network, const Settings& settings)
      : network_(std::move(network)),
        settings_(settings),
        at_once_(Frozen(settings.mode) && settings.device == "cpu" ? at::get_num_threads() : 1) {}

  absl::Status Prepare();
  int64_t at_once() const override { return at_once_; }
  absl::StatusOr<Losses> Accumulate(absl::Span<const Pack> packs, double weight) override {
    return Run(packs, &weight);
  }
  absl::StatusOr<Losses> Measure(absl::Span<const Pack> packs) override { return Run(packs, nullptr); }
  absl::StatusOr<double> Step(double learning_rate) override;
  absl::StatusOr<std::vector<NamedTensor>> Trained() const override { return Copies(/*moments=*/false); }
  absl::StatusOr<std::vector<NamedTensor>> State() const override { return Copies(/*moments=*/true); }
  absl::Status Set(absl::Span<const NamedTensor> tensors) override;
  std::vector<TensorWriter::Entry> Parameters() override;
  absl::Status ForEachParameter(const std::function<absl::Status(const NamedTensor&)>& visit) override;

 private:
  struct Trainable {
    std::string name;
    at::Tensor value, mean, square;  // square: of the gradient, as mean is its average
  };
  void Add(std::string name, at::Tensor value) {
    value.requires_grad_(true);
    trainable_.push_back({std::move(name), value, at::zeros_like(value), at::zeros_like(value)});
  }
  double LoraScale() const { return settings_.alpha / static_cast<double>(settings_.rank); }
  void AddEmbeddings(data::Random& random);
  at::Tensor Extra() const;
  absl::StatusOr<Losses> Run(absl::Span<const Pack> packs, const double* weight);
  // `extra`: the extra embeddings; takes gradients of its own if the model is frozen.
  absl::Status RunPack(const Pack& pack, const double* weight, const at::Tensor& extra, Losses* losses) const;
  at::Tensor TeacherHidden(const Pack& pack) const;
  absl::StatusOr<std::vector<NamedTensor>> Copies(bool moments) const;

  const std::unique_ptr<Network> network_;
  const Settings settings_;
  const int64_t at_once_;
  std::vector<Trainable> trainable_;
  std::vector<at::Tensor> embeddings_;  // those of trainable_ that form the extra embeddings, in order
  int64_t taken_ = 0;                   // steps
};

// Trained embeddings begin as those of tokens: they lie where the model expects embeddings to lie.
void TorchLearner::AddEmbeddings(data::Random& random) {
  const Embeddings& wanted = settings_.embeddings;
  const at::Tensor table = network_->Parameters().front().second->detach();
  size_t taken = 0;  // of settings_.begin
  const auto next = [&]() -> int64_t {
    if (settings_.begin.empty()) return static_cast<int64_t>(random.Below(static_cast<size_t>(table.size(0))));
    return settings_.begin[taken++ % settings_.begin.size()];
  };
  const auto add = [&](const char* name, int64_t rows) {
    if (rows == 0) return;
    std::vector<int64_t> ids;
    for (int64_t i = 0; i < rows; ++i) ids.push_back(next());
    at::Tensor value = table.index_select(0, at::tensor(at::ArrayRef<int64_t>(ids)).to(table.device())).clone();
    Add(name, value);
    embeddings_.push_back(value);
  };
  add("link_embeddings", wanted.link_rows());
  add("wrapper_header", wanted.header);
  add("wrapper_trailer", wanted.trailer);
}

absl::Status TorchLearner::Prepare() {
  return Guarded([&] {
    data::Random random(settings_.seed ^ 0x6c65617266726f6d);
    if (settings_.mode == Mode::kFull) {
      for (const auto& [name, tensor] : network_->Parameters()) Add(name, *tensor);
    }
    AddEmbeddings(random);
    if (Frozen(settings_.mode)) network_->Freeze();
    if (settings_.mode == Mode::kLora) {
      network_->set_lora_scale(LoraScale());
      for (Matrix* matrix : network_->Matrices()) {
        const int64_t out = matrix->weight.size(0), in = matrix->weight.size(1);
        at::Tensor a = at::empty({settings_.rank, in}, at::kFloat);
        float* const values = a.data_ptr<float>();
        const double bound = 1 / std::sqrt(static_cast<double>(in));
        for (int64_t i = 0; i < a.numel(); ++i) {
          values[i] = static_cast<float>(bound * (2 * random.Uniform() - 1));
        }
        matrix->lora_a = a.to(network_->options().device);
        matrix->lora_b = at::zeros({out, settings_.rank}, matrix->weight.options());
        Add(matrix->name + ".lora_a", matrix->lora_a);
        Add(matrix->name + ".lora_b", matrix->lora_b);
      }
    }
    return absl::OkStatus();
  });
}

at::Tensor TorchLearner::Extra() const {
  if (embeddings_.empty()) return {};
  return at::cat(embeddings_, 0);
}

// The model as it was before training: without low-rank products.
at::Tensor TorchLearner::TeacherHidden(const Pack& pack) const {
  const at::NoGradGuard no_gradients;
  std::vector<const Sequence*> sequences;
  for (const Lesson& lesson : pack) sequences.push_back(&lesson.teacher);
  if (settings_.mode == Mode::kLora) network_->set_lora_scale(0);
  const at::Tensor hidden = network_->Forward(network_->LayOut(sequences), {});
  if (settings_.mode == Mode::kLora) {
    network_->set_lora_scale(LoraScale());
  }
  return hidden;
}

absl::Status TorchLearner::RunPack(const Pack& pack, const double* weight, const at::Tensor& extra,
                                   Losses* losses) const {
  const at::AutoGradMode gradients(weight != nullptr);
  std::vector<const Sequence*> sequences;
  std::vector<int64_t> targets;
  for (const Lesson& lesson : pack) {
    sequences.push_back(&lesson.student);
    for (const int64_t token : lesson.student.learned) {
      targets.push_back(lesson.student.tokens[static_cast<size_t>(token)]);
    }
  }
  at::Tensor teacher;
  if (settings_.divergence > 0) teacher = TeacherHidden(pack);
  const Layout layout = network_->LayOut(sequences);
  const at::Tensor hidden = network_->Forward(layout, extra);
  const at::Tensor leaf = hidden.detach().requires_grad_(weight != nullptr);
  const at::Tensor target = at::tensor(at::ArrayRef<int64_t>(targets)).to(hidden.device()).unsqueeze(1);
  const int64_t rows = hidden.size(0);
  for (int64_t begin = 0; begin < rows; begin += kLossRows) {
    const int64_t count = std::min(kLossRows, rows - begin);
    const at::Tensor likely = network_->Logits(leaf.narrow(0, begin, count)).log_softmax(-1);
    const at::Tensor entropy = -likely.gather(1, target.narrow(0, begin, count)).sum();
    losses->cross_entropy += entropy.item<double>();
    at::Tensor loss = entropy * settings_.cross_entropy;
    if (teacher.defined()) {
      at::Tensor wanted;
      {
        const at::NoGradGuard no_gradients;
        wanted = network_->Logits(teacher.narrow(0, begin, count)).log_softmax(-1);
      }
      const at::Tensor divergence = (wanted.exp() * (wanted - likely)).sum();
      losses->divergence += divergence.item<double>();
      loss = loss + divergence * settings_.divergence;
    }
    if (weight != nullptr) (loss * *weight).backward();
  }
  losses->tokens += rows;
  if (weight != nullptr && hidden.requires_grad()) hidden.backward(leaf.grad());
  return absl::OkStatus();
}

// In frozen modes the packs share nothing that is written: each has a copy of the extra embeddings, whose gradients are
// summed in the order of the packs, so that the sum does not depend on which thread was faster.
absl::StatusOr<Learner::Losses> TorchLearner::Run(absl::Span<const Pack> packs, const double* weight) {
  Losses sum;
  if (at_once_ == 1) {
    for (const Pack& pack : packs) {
      KVLINK_RETURN_IF_ERROR(Guarded([&] { return RunPack(pack, weight, Extra(), &sum); }));
    }
    return sum;
  }
  struct One {
    Losses losses;
    at::Tensor extra;
    absl::Status status;
  };
  std::vector<One> each(packs.size());
  for (size_t begin = 0; begin < packs.size(); begin += static_cast<size_t>(at_once_)) {
    std::vector<Thread> threads;
    for (size_t i = begin; i < std::min(packs.size(), begin + static_cast<size_t>(at_once_)); ++i) {
      threads.emplace_back("train-pack", [&, i] {
        each[i].status = Guarded([&] {
          at::set_num_threads(1);  // of this thread's products
          each[i].extra = Extra().detach().requires_grad_(weight != nullptr);
          return RunPack(packs[i], weight, each[i].extra, &each[i].losses);
        });
      });
    }
  }
  at::Tensor gradient;
  for (const One& one : each) {
    KVLINK_RETURN_IF_ERROR(one.status);
    sum.Add(one.losses);
  }
  KVLINK_RETURN_IF_ERROR(Guarded([&] {
    for (const One& one : each) {
      if (one.extra.grad().defined()) gradient = gradient.defined() ? gradient + one.extra.grad() : one.extra.grad();
    }
    if (gradient.defined()) Extra().backward(gradient);
    return absl::OkStatus();
  }));
  return sum;
}

absl::StatusOr<double> TorchLearner::Step(double learning_rate) {
  double norm = 0;
  KVLINK_RETURN_IF_ERROR(Guarded([&]() -> absl::Status {
    const at::NoGradGuard no_gradients;
    double squares = 0;
    for (const Trainable& one : trainable_) {
      if (one.value.grad().defined()) squares += one.value.grad().to(at::kDouble).pow(2).sum().item<double>();
    }
    norm = std::sqrt(squares);
    if (!std::isfinite(norm)) {
      for (Trainable& one : trainable_) one.value.mutable_grad() = at::Tensor();
      return absl::AbortedError("the gradient is not finite");
    }
    const double scale = norm > settings_.clip ? settings_.clip / norm : 1;
    ++taken_;
    const double mean_scale = 1 - std::pow(settings_.beta1, taken_);
    const double square_scale = std::sqrt(1 - std::pow(settings_.beta2, taken_));
    for (Trainable& one : trainable_) {
      const at::Tensor gradient = one.value.grad().defined() ? one.value.grad() * scale : at::zeros_like(one.value);
      one.value.mul_(1 - learning_rate * settings_.weight_decay);
      one.mean.mul_(settings_.beta1).add_(gradient, 1 - settings_.beta1);
      one.square.mul_(settings_.beta2).addcmul_(gradient, gradient, 1 - settings_.beta2);
      one.value.addcdiv_(one.mean, (one.square.sqrt() / square_scale).add_(settings_.epsilon),
                         -learning_rate / mean_scale);
      one.value.mutable_grad() = at::Tensor();
    }
    return absl::OkStatus();
  }));
  return norm;
}

absl::StatusOr<std::vector<NamedTensor>> TorchLearner::Copies(bool moments) const {
  std::vector<NamedTensor> tensors;
  KVLINK_RETURN_IF_ERROR(Guarded([&] {
    for (const Trainable& one : trainable_) tensors.push_back(ToNamed(one.name, one.value));
    if (!moments) return absl::OkStatus();
    for (const Trainable& one : trainable_) {
      tensors.push_back(ToNamed("m." + one.name, one.mean));
      tensors.push_back(ToNamed("v." + one.name, one.square));
    }
    tensors.push_back({"steps", {1}, {static_cast<float>(taken_)}});
    return absl::OkStatus();
  }));
  return tensors;
}

absl::Status TorchLearner::Set(absl::Span<const NamedTensor> tensors) {
  const size_t count = trainable_.size();
  const bool moments = tensors.size() == 3 * count + 1;
  std::vector<std::pair<std::string, at::Tensor*>> places;
  for (Trainable& one : trainable_) places.emplace_back(one.name, &one.value);
  for (Trainable& one : trainable_) {
    if (!moments) break;
    places.emplace_back("m." + one.name, &one.mean);
    places.emplace_back("v." + one.name, &one.square);
  }
  if (tensors.size() != places.size() + (moments ? 1 : 0)) {
    return absl::InvalidArgumentError(absl::StrCat(tensors.size(), " tensors, where this training has ", count, ", or ",
                                                   3 * count + 1, " with the optimizer's"));
  }
  for (size_t i = 0; i < places.size(); ++i) {
    const auto& [name, place] = places[i];
    if (tensors[i].name != name || place->sizes().vec() != tensors[i].shape) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor '", tensors[i].name, "' is not the '", name, "' of this training, or of another shape"));
    }
  }
  if (moments && (tensors.back().name != "steps" || tensors.back().values.size() != 1 ||
                  !(tensors.back().values[0] >= 0 && tensors.back().values[0] < 0x1p53F))) {
    return absl::InvalidArgumentError("no number of steps");
  }
  return Guarded([&] {
    const at::NoGradGuard no_gradients;
    for (size_t i = 0; i < places.size(); ++i) {
      places[i].second->copy_(at::tensor(at::ArrayRef<float>(tensors[i].values)).view(tensors[i].shape));
    }
    if (moments) taken_ = static_cast<int64_t>(tensors.back().values[0]);
    return absl::OkStatus();
  });
}

std::vector<TensorWriter::Entry> TorchLearner::Parameters() {
  std::vector<TensorWriter::Entry> entries;
  for (const auto& [name, tensor] : network_->Parameters()) entries.push_back({name, tensor->sizes().vec()});
  return entries;
}

absl::Status TorchLearner::ForEachParameter(const std::function<absl::Status(const NamedTensor&)>& visit) {
  return Guarded([&]() -> absl::Status {
    const at::NoGradGuard no_gradients;
    const std::vector<Matrix*> matrices = network_->Matrices();
    for (const auto& [name, tensor] : network_->Parameters()) {
      at::Tensor value = *tensor;
      for (const Matrix* matrix : matrices) {
        if (matrix->lora_a.defined() && name == matrix->name + ".weight") {
          value = value + at::mm(matrix->lora_b, matrix->lora_a) * LoraScale();
        }
      }
      KVLINK_RETURN_IF_ERROR(visit(ToNamed(name, value)));
    }
    return absl::OkStatus();
  });
}

}  // namespace

bool Learner::HasCuda() { return at::hasCUDA(); }

absl::StatusOr<std::unique_ptr<Learner>> Learner::Create(const model::ModelConfig& config,
                                                         const model::Weights* weights, const Settings& settings) {
  KVLINK_RETURN_IF_ERROR(CheckSettings(settings));
  std::unique_ptr<TorchLearner> learner;
  KVLINK_RETURN_IF_ERROR(Guarded([&]() -> absl::Status {
    at::set_num_threads(settings.threads > 0 ? static_cast<int>(settings.threads) : AvailableProcessors());
    NetworkOptions options;
    if (settings.device == "cuda") {
      if (!HasCuda()) return absl::InvalidArgumentError("option --device: this LibTorch sees no CUDA device; use cpu");
      options.device = at::kCUDA;
    }
    options.bf16 = settings.bf16;
    options.recompute_above = settings.recompute_above;
    KVLINK_ASSIGN_OR_RETURN(std::unique_ptr<Network> network, Network::Create(config, weights, settings.seed, options));
    learner = std::make_unique<TorchLearner>(std::move(network), settings);
    return learner->Prepare();
  }));
  return learner;
}

}  // namespace kvlink::train
