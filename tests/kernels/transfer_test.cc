// Copies through pinned memory, on every backend.
#include "kernels/device/transfer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "tests/support/backends.h"
#include "tests/support/cuda_emulation/backend.h"

namespace kvlink::kernels {
namespace {

class TransferTest : public ::testing::TestWithParam<testing::BackendFactory> {};

TEST_P(TransferTest, WhatGoesThereComesBack) {
  const auto backend = GetParam().make();
  auto transfer = Transfer::Create(backend.get());
  ASSERT_TRUE(transfer.ok()) << transfer.status();
  std::mt19937_64 random(1);
  // Around a piece, around the ring, and once around it and on.
  for (const int64_t bytes : {0, 1, 4095, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 4 << 20, (9 << 20) + 17}) {
    std::vector<unsigned char> there(bytes), back(bytes);
    for (unsigned char& byte : there) byte = static_cast<unsigned char>(random());
    const auto memory = backend->Allocate(bytes);
    ASSERT_TRUE(memory.ok()) << memory.status();
    const absl::Status sent = (*transfer)->ToDevice(there.data(), memory->data(), bytes);
    EXPECT_TRUE(sent.ok()) << sent;
    const std::vector<unsigned char> kept = there;
    std::fill(there.begin(), there.end(), 0);  // it was copied: the host's memory is free again
    const absl::Status received = (*transfer)->ToHost(memory->data(), back.data(), bytes);
    EXPECT_TRUE(received.ok()) << received;
    EXPECT_EQ(back, kept) << bytes;
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, TransferTest, ::testing::ValuesIn(testing::AllBackends()),
                         [](const auto& info) { return info.param.name; });

TEST(TransferMemoryTest, WithoutPinnedMemoryThereIsNone) {
  const auto backend = testing::MakeEmulatedCudaBackend();
  testing::SetEmulatedDeviceExhausted(true);
  EXPECT_EQ(Transfer::Create(backend.get()).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(backend->AllocatePinned(100).status().code(), absl::StatusCode::kResourceExhausted);
  testing::SetEmulatedDeviceExhausted(false);
  EXPECT_TRUE(Transfer::Create(backend.get()).ok());
  EXPECT_EQ(backend->AllocatePinned(-1).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvlink::kernels
