// A device without memory: RESOURCE_EXHAUSTED from whatever needs some, and nothing else breaks. And what frees memory.
#include <gtest/gtest.h>

#include <vector>

#include "tests/support/cuda_emulation/backend.h"
#include "tests/support/device_tensor.h"

namespace kvlink::testing {
namespace {

using kernels::Dtype;
using kernels::Tensor;

class CudaMemoryTest : public ::testing::Test {
 protected:
  ~CudaMemoryTest() override { SetEmulatedDeviceExhausted(false); }
  const std::unique_ptr<kernels::Backend> backend_ = MakeEmulatedCudaBackend();
};

TEST_F(CudaMemoryTest, WhatAllocatesSaysSo) {
  const auto embedded = [&](kernels::Stream& stream, const DeviceTensor& ids, const DeviceTensor& table) {
    const auto out = DeviceTensor::Poisoned(backend_.get(), Dtype::kF32, {1, 2});
    absl::Status status = backend_->Embed(stream, {ids, table, {}, out});
    if (status.ok()) status = stream.Synchronize();
    return status.ok() ? out.Floats() : std::vector<float>{};
  };
  const auto ids = DeviceTensor::OfInts(backend_.get(), Dtype::kI32, std::vector<int32_t>{1});
  const auto table = DeviceTensor::Of(backend_.get(), Dtype::kF32, {2, 2}, {1, 2, 3, 4});
  const auto out = DeviceTensor::Poisoned(backend_.get(), Dtype::kF32, {1, 2});
  const auto stream = backend_->NewStream();
  const std::vector<float> weight(64, 1.0f);
  const Tensor matrix = Tensor::Dense(const_cast<float*>(weight.data()), Dtype::kF32, {}, {8, 8});
  const kernels::Rope rope = kernels::MakeRope({.rotary_dim = 64}).value();
  const kernels::Rope* ropes[] = {&rope};
  const std::vector<int64_t> positions = {3};
  auto plan = backend_->Plan({positions, {}, {}, ropes}, nullptr);
  ASSERT_TRUE(plan.ok());

  SetEmulatedDeviceExhausted(true);
  EXPECT_EQ(backend_->Allocate(100).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(backend_->PackWeights(matrix).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(backend_->Plan({positions, {}, {}, ropes}, nullptr).status().code(), absl::StatusCode::kResourceExhausted);
  // One that fits the memory it has needs no more; one that does not fit is lost, with all it held.
  plan = backend_->Plan({positions, {}, {}, ropes}, *std::move(plan));
  EXPECT_TRUE(plan.ok()) << plan.status();
  const std::vector<int64_t> many(1000, 3);
  plan = backend_->Plan({many, {}, {}, ropes}, *std::move(plan));
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted);
  const auto poor = backend_->NewStream();
  EXPECT_EQ(poor->Synchronize().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(backend_->Embed(*poor, {ids, table, {}, out}).code(), absl::StatusCode::kResourceExhausted);
  // The earlier stream still works.
  EXPECT_TRUE(backend_->Embed(*stream, {ids, table, {}, out}).ok());
  EXPECT_TRUE(stream->Synchronize().ok());

  SetEmulatedDeviceExhausted(false);
  EXPECT_EQ(embedded(*stream, ids, table), (std::vector<float>{3, 4}));
  EXPECT_TRUE(backend_->PackWeights(matrix).ok());
  EXPECT_TRUE(backend_->Plan({many, {}, {}, ropes}, nullptr).ok());
}

// A device would not wait either: what is freed is given to others at once.
TEST_F(CudaMemoryTest, WhatIsStillCopiedMustNotBeFreed) {
  const auto stream = backend_->NewStream();
  const std::vector<std::byte> host(64);
  const auto copy_and_free = [&](bool wait) {
    kernels::Buffer memory = backend_->Allocate(64).value();
    ASSERT_TRUE(backend_->CopyIn(*stream, host.data(), memory.data(), 64).ok());
    if (wait) {
      ASSERT_TRUE(stream->Synchronize().ok());
    }
    memory.reset();
  };
  EXPECT_DEATH(copy_and_free(false), "freed before the copies");
  copy_and_free(true);
}

}  // namespace
}  // namespace kvlink::testing
