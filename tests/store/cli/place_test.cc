// Meanings of --store: a directory, a node, or a mistake, for which no directory is made.
#include "store/cli/place.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/thread.h"
#include "store/cli/commands.h"
#include "store/engine/index/index.h"
#include "tests/store/synthetic.h"
#include "tests/support/address.h"
#include "tests/support/certificates.h"

namespace kvlink::cli {
namespace {

using ::testing::HasSubstr;

TEST(IsNode, ToldFromDirectories) {
  for (const char* node : {"127.0.0.1:7400", "localhost:1", "host.example:65535", "[::1]:7400", "node:80"}) {
    const auto is_node = IsNode(node);
    ASSERT_TRUE(is_node.ok()) << node << ": " << is_node.status();
    EXPECT_TRUE(*is_node) << node;
  }
  for (const char* directory : {"store", "./localhost", "/var/lib/kvlink", "./a:1", "a:1/b", "a:b", "1.2.3", "v:1x"}) {
    const auto is_node = IsNode(directory);
    ASSERT_TRUE(is_node.ok()) << directory << ": " << is_node.status();
    EXPECT_FALSE(*is_node) << directory;
  }
}

TEST(IsNode, WhatLooksLikeAnAddressIsRefusedAndNotMade) {
  for (const char* typo : {"http://127.0.0.1:7400", "grpc://host", "127.0.0.1:99999", "127.0.0.1:0", ":7400",
                           "localhost", "LOCALHOST", "127.0.0.1", "[::1]", "host:", "localhost:http",
                           "host:123456789012345678901", "::1:7400", "::1", "fe80::2:7400"}) {
    const auto is_node = IsNode(typo);
    EXPECT_EQ(is_node.status().code(), absl::StatusCode::kInvalidArgument) << typo;
    EXPECT_THAT(std::string(is_node.status().message()), HasSubstr("HOST:PORT")) << typo;
    StoreFlags flags;
    flags.store = typo;
    for (const StoreUse use : {StoreUse::kCreate, StoreUse::kExisting, StoreUse::kReadOnly, StoreUse::kReading}) {
      EXPECT_EQ(OpenStore(flags, use).status().code(), absl::StatusCode::kInvalidArgument) << typo;
    }
    EXPECT_FALSE(std::filesystem::exists(typo)) << typo;
  }
}

TEST(PlaceOf, OptionsGoBeforeTheEnvironmentAndExcludeEachOther) {
  setenv("KVLINK_STORE", "etcd://10.0.0.1:2379/docs", 1);
  StoreFlags flags;
  EXPECT_EQ(*PlaceOf(flags), PlaceKind::kCluster);
  EXPECT_EQ(PlaceName(flags), "cluster 10.0.0.1:2379/docs");
  flags.store = "10.0.0.1:7400";
  EXPECT_EQ(*PlaceOf(flags), PlaceKind::kNode);
  flags.store = "./a";
  EXPECT_EQ(*PlaceOf(flags), PlaceKind::kDirectory);
  EXPECT_EQ(PlaceName(flags), "./a");
  flags.cluster.cluster = "10.0.0.2:2379";
  EXPECT_THAT(std::string(PlaceOf(flags).status().message()), HasSubstr("cannot be combined"));
  setenv("KVLINK_STORE", "10.0.0.1:7400", 1);
  StoreFlags node;
  EXPECT_EQ(*PlaceOf(node), PlaceKind::kNode);
  node.cluster.cluster = "10.0.0.2:2379";
  EXPECT_EQ(*PlaceOf(node), PlaceKind::kCluster);
  unsetenv("KVLINK_STORE");
}

TEST(OpenStore, MemoryThatHoldsNothingOrIsNotThereIsRefused) {
  const testing::ScratchDirectory scratch;
  for (const int64_t bytes : {int64_t{0}, int64_t{1}, int64_t{100} << 40}) {
    StoreFlags flags;
    flags.store = scratch.path() + "/store";
    flags.memory = bytes;
    EXPECT_EQ(OpenStore(flags, StoreUse::kCreate).status().code(), absl::StatusCode::kInvalidArgument) << bytes;
    EXPECT_FALSE(std::filesystem::exists(flags.store));
  }
}

// Nothing else is needed to find the mistake: no request to a node, nor etcd, which is not there.
TEST(OpenStore, TlsFilesForTheNodesOfAClusterAreCheckedAtTheStart) {
  if (!testing::HaveOpenssl()) GTEST_SKIP() << "no openssl here";
  const testing::ScratchDirectory scratch;
  ASSERT_TRUE(testing::MakeCertificates(scratch.path()));
  const std::string key = scratch.path() + "/node.key", certificate = scratch.path() + "/client.pem";
  StoreFlags flags;
  flags.cluster.cluster = testing::UnusedAddress();
  flags.tls = {scratch.path() + "/ca.pem", certificate, key};
  const absl::Status status = OpenStore(flags, StoreUse::kExisting).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(key + " does not belong to the certificate " + certificate));
  EXPECT_THAT(std::string(status.message()), HasSubstr(flags.cluster.cluster));
}

// Verify has dropped the damaged encodings by the time it looks for names in the catalog, and no later run would report
// them.
TEST(Verify, SaysWhatItFoundAlsoWhereTheCatalogCannotBeRead) {
  const testing::ScratchDirectory scratch;
  const testing::Synthetic s = testing::MakeSynthetic(1);
  StoreFlags flags;
  flags.store = scratch.path() + "/store";
  {
    const auto opened = OpenStore(flags, StoreUse::kCreate);
    ASSERT_TRUE(opened.ok()) << opened.status();
    const absl::Time deadline = SteadyNow() + absl::Seconds(60);
    ASSERT_TRUE(opened->store->Put(flags.ns, s.manifest, s.spans(), deadline).ok());
    ASSERT_TRUE(opened->store->PutDocument(flags.ns, "moon", testing::EntryOf({&s}, 1)).ok());
  }
  {
    auto index = engine::Index::Open(flags.store + "/index", {});
    ASSERT_TRUE(index.ok()) << index.status();
    engine::IndexBatch batch(index->get());
    batch.PutEntry(flags.ns, "mars", "not an entry");
    ASSERT_TRUE((*index)->Commit(&batch).ok());
    ASSERT_TRUE((*index)->Close().ok());
  }
  ASSERT_EQ(testing::FlipOnDisk(flags.store, s), 1);
  std::string store = "--store", path = flags.store;
  char* words[] = {store.data(), path.data()};
  ::testing::internal::CaptureStdout();
  const absl::Status status = RunVerify(words);
  const std::string output = ::testing::internal::GetCapturedStdout();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("mars"));
  EXPECT_THAT(output, HasSubstr(s.manifest.identity.Hex()));
  EXPECT_THAT(output, HasSubstr("1 damaged"));
}

TEST(OpenStore, OnlyCreatingCreatesAndItIsSaid) {
  const testing::ScratchDirectory scratch;
  StoreFlags flags;
  flags.store = scratch.path() + "/deep/store";
  for (const StoreUse use : {StoreUse::kExisting, StoreUse::kReadOnly, StoreUse::kReading}) {
    EXPECT_EQ(OpenStore(flags, use).status().code(), absl::StatusCode::kNotFound);
    EXPECT_FALSE(std::filesystem::exists(scratch.path() + "/deep"));
  }
  const auto made = OpenStore(flags, StoreUse::kCreate);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_TRUE(made->created);
}

TEST(OpenStore, AStoreInUseIsWaitedFor) {
  const testing::ScratchDirectory scratch;
  StoreFlags flags;
  flags.store = scratch.path() + "/store";
  auto held = OpenStore(flags, StoreUse::kCreate);
  ASSERT_TRUE(held.ok()) << held.status();
  const auto refused = OpenStore(flags, StoreUse::kExisting);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("--wait"));
  Thread other("other", [&held] {
    absl::SleepFor(absl::Milliseconds(300));
    held->store.reset();
  });
  flags.wait = 600;
  const auto opened = OpenStore(flags, StoreUse::kCreate);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_FALSE(opened->created);
}

TEST(OpenStore, WhatMayNotBeWrittenIsRead) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to become somebody who may not write";
  constexpr uid_t kNobody = 65534;
  namespace fs = std::filesystem;
  const testing::ScratchDirectory scratch;
  StoreFlags flags;
  flags.store = scratch.path() + "/store";
  ASSERT_TRUE(OpenStore(flags, StoreUse::kCreate).ok());
  fs::permissions(scratch.path(), fs::perms::all);
  std::vector<std::string> paths = {flags.store};
  for (const auto& item : fs::recursive_directory_iterator(flags.store)) paths.push_back(item.path());
  for (const std::string& path : paths) {
    fs::permissions(path, fs::perms::owner_write, fs::perm_options::remove);
    ASSERT_EQ(chown(path.c_str(), kNobody, kNobody), 0) << path;
  }
  ASSERT_EQ(setresuid(kNobody, kNobody, 0), 0);
  const absl::Status writing = OpenStore(flags, StoreUse::kExisting).status();
  const auto reading = OpenStore(flags, StoreUse::kReading);
  ASSERT_EQ(setresuid(0, 0, 0), 0);
  EXPECT_FALSE(writing.ok());
  ASSERT_TRUE(reading.ok()) << reading.status();
  EXPECT_TRUE(reading->read_only);
  EXPECT_TRUE(reading->store->Stats().ok());
}

}  // namespace
}  // namespace kvlink::cli
