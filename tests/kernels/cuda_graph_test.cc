// Recorded operations of the emulated device: carried out when the graph is, changed where they differ, and given up
// without a trace.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "kernels/device/graph.h"
#include "tests/support/cuda_emulation/backend.h"
#include "tests/support/device_tensor.h"

namespace kvlink::testing {
namespace {

using kernels::Dtype;
using kernels::Graph;
using kernels::GraphStream;

class CudaGraphTest : public ::testing::Test {
 protected:
  ~CudaGraphTest() override { SetEmulatedDeviceUnrecordable(false); }
  absl::Status Embed(int id, const DeviceTensor& out) {
    return backend_->Embed(*stream_, {ids_.view().Slice(id, 1), table_, {}, out});
  }
  DeviceTensor Out() { return DeviceTensor::Poisoned(backend_.get(), Dtype::kF32, {1, 2}); }
  // More than the ring takes at once.
  absl::Status StageTooMuch() {
    const std::vector<int64_t> zeros(100000);
    const auto sums = DeviceTensor::Poisoned(backend_.get(), Dtype::kU64, {100000});
    const absl::Status status = backend_->Checksum(*stream_, {bytes_, zeros, zeros, sums});
    return status.ok() ? stream_->Synchronize() : status;
  }

  const std::unique_ptr<kernels::Backend> backend_ = MakeEmulatedCudaBackend();
  const std::unique_ptr<kernels::Stream> stream_ = backend_->NewStream();
  GraphStream& recorder_ = *GraphStream::Of(*stream_);
  const DeviceTensor ids_ = DeviceTensor::OfInts(backend_.get(), Dtype::kI32, std::vector<int32_t>{0, 1});
  const DeviceTensor table_ = DeviceTensor::Of(backend_.get(), Dtype::kF32, {2, 2}, {1, 2, 3, 4});
  const DeviceTensor bytes_ = DeviceTensor::OfInts(backend_.get(), Dtype::kU8, std::vector<uint8_t>(64));
};

TEST_F(CudaGraphTest, WhatIsRecordedIsCarriedOutByTheGraph) {
  std::unique_ptr<Graph> graph;
  const Graph* first = nullptr;
  for (const int id : {1, 0, 1}) {
    const DeviceTensor out = Out();
    ASSERT_TRUE(recorder_.BeginCapture().ok());
    EXPECT_TRUE(Embed(id, out).ok());
    ASSERT_TRUE(recorder_.EndCapture(&graph).ok());
    EXPECT_EQ(out.Bytes()[0], std::byte{0xff}) << "not before it is waited for";
    EXPECT_TRUE(stream_->Synchronize().ok());
    EXPECT_EQ(out.Floats(), id == 1 ? (std::vector<float>{3, 4}) : (std::vector<float>{1, 2}));
    if (first == nullptr) first = graph.get();
    EXPECT_EQ(graph.get(), first) << "the same, with other arguments";
  }
  // One with more in it is another.
  const DeviceTensor a = Out(), b = Out();
  ASSERT_TRUE(recorder_.BeginCapture().ok());
  EXPECT_TRUE(Embed(0, a).ok() && Embed(1, b).ok());
  ASSERT_TRUE(recorder_.EndCapture(&graph).ok());
  EXPECT_TRUE(stream_->Synchronize().ok());
  EXPECT_EQ(a.Floats(), (std::vector<float>{1, 2}));
  EXPECT_EQ(b.Floats(), (std::vector<float>{3, 4}));
}

TEST_F(CudaGraphTest, WhatIsDroppedIsNotCarriedOut) {
  const DeviceTensor out = Out();
  ASSERT_TRUE(recorder_.BeginCapture().ok());
  EXPECT_TRUE(Embed(1, out).ok());
  recorder_.DropCapture();
  EXPECT_TRUE(stream_->Synchronize().ok());
  EXPECT_NE(out.Floats()[0], 3);
  EXPECT_TRUE(Embed(1, out).ok());
  EXPECT_TRUE(stream_->Synchronize().ok());
  EXPECT_EQ(out.Floats()[0], 3);
}

TEST_F(CudaGraphTest, ARecordingThatFailsLeavesNothing) {
  const auto fails = [&](bool unrecordable, const auto& during) {
    std::unique_ptr<Graph> graph;
    const DeviceTensor out = Out();
    ASSERT_TRUE(recorder_.BeginCapture().ok());
    EXPECT_TRUE(Embed(1, out).ok());
    during();
    SetEmulatedDeviceUnrecordable(unrecordable);
    EXPECT_FALSE(recorder_.EndCapture(&graph).ok());
    SetEmulatedDeviceUnrecordable(false);
    EXPECT_EQ(graph, nullptr);
    EXPECT_TRUE(stream_->Synchronize().ok());
    EXPECT_NE(out.Floats()[0], 3);
  };
  fails(true, [] {});
  fails(false, [&] { EXPECT_FALSE(backend_->Allocate(64).ok()); });
  fails(false, [&] { EXPECT_FALSE(stream_->Synchronize().ok()); });
  std::unique_ptr<Graph> graph;
  const DeviceTensor out = Out();
  ASSERT_TRUE(recorder_.BeginCapture().ok());
  EXPECT_TRUE(Embed(1, out).ok());
  ASSERT_TRUE(recorder_.EndCapture(&graph).ok());
  EXPECT_TRUE(stream_->Synchronize().ok());
  EXPECT_EQ(out.Floats()[0], 3);
}

// Staged memory must stay until the graph has run, so the ring cannot start over.
TEST_F(CudaGraphTest, TheRingDoesNotTurnWhileOperationsAreRecorded) {
  const std::vector<int64_t> zeros(40000);
  const auto sums = DeviceTensor::Poisoned(backend_.get(), Dtype::kU64, {40000});
  ASSERT_TRUE(recorder_.BeginCapture().ok());
  EXPECT_TRUE(backend_->Checksum(*stream_, {bytes_, zeros, zeros, sums}).ok());
  EXPECT_EQ(backend_->Checksum(*stream_, {bytes_, zeros, zeros, sums}).code(), absl::StatusCode::kResourceExhausted);
  recorder_.DropCapture();
  EXPECT_TRUE(StageTooMuch().ok());
}

// A rope that was staged for a recording alone never arrived.
TEST_F(CudaGraphTest, RopesOfADroppedRecordingAreStagedAgain) {
  const kernels::Rope rope = kernels::MakeRope({.rotary_dim = 4}).value();
  const auto in = DeviceTensor::Of(backend_.get(), Dtype::kF32, {1, 1, 4}, {1, 2, 3, 4});
  const auto slots = DeviceTensor::OfInts(backend_.get(), Dtype::kI64, std::vector<int64_t>{0});
  const auto shifted = [&](kernels::Stream& stream, bool drop) {
    const auto out = DeviceTensor::Poisoned(backend_.get(), Dtype::kF32, {1, 1, 4});
    const kernels::ShiftKeysArgs args{&rope, 3, in, slots, out};
    if (drop) {
      EXPECT_TRUE(recorder_.BeginCapture().ok());
      EXPECT_TRUE(backend_->ShiftKeys(stream, args).ok());
      recorder_.DropCapture();
    }
    EXPECT_TRUE(backend_->ShiftKeys(stream, args).ok());
    EXPECT_TRUE(stream.Synchronize().ok());
    return out.Floats();
  };
  const std::vector<float> expected = shifted(*backend_->NewStream(), false);
  EXPECT_EQ(shifted(*stream_, true), expected);
}

}  // namespace
}  // namespace kvlink::testing
