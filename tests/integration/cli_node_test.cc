// A store served to other processes: the same encodings and answers as in process, over every carrier; an operator's
// commands; refusals.
#include <gmock/gmock.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "tests/integration/cli_workplace.h"
#include "tests/integration/node_process.h"
#include "tests/support/seed.h"

namespace kvlink::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class CliNodeTest : public CliTest {
 protected:
  void SetUp() override {
    CliTest::SetUp();
    directory_ = store_;
  }
  // Makes subsequent commands use the node.
  void Use(const NodeProcess& node) { store_ = node.address(); }
  void UseDirectory(const std::string& directory) { store_ = directory; }

  std::string Key(const std::string& name, const std::string& key) const {
    const std::string path = Write(name, key);
    EXPECT_EQ(chmod(path.c_str(), 0600), 0);
    return path;
  }
  // A document's stored state: identities, etags, every checksum.
  nlohmann::json Stored(const std::string& id) const {
    nlohmann::json document = Inspect({"document", id, "--units"});
    document.erase("generation");
    document.erase("written_at_us");
    for (auto& part : document["parts"]) {
      for (auto& encoding : part["encodings"]) encoding.erase("tier");
    }
    return document;
  }
  Finished Ask(const std::vector<std::string>& arguments = {}) const {
    std::vector<std::string> words = {"--doc", "d0", "--doc", "d5", "--doc", "d3", "--max-tokens", "12"};
    words.insert(words.end(), arguments.begin(), arguments.end());
    words.push_back("How many grains are there?");
    return Run("ask", words);
  }

  std::string directory_;
};

class CliCarrierTest : public CliNodeTest, public ::testing::WithParamInterface<const char*> {};

TEST_P(CliCarrierTest, ThreeProcessesStoreAndAnswerAsOneDoes) {
  const std::string input = Write("in.jsonl", Lines(0, 8));
  UseDirectory(Path("alone"));
  ASSERT_EQ(Run("ingest", {input}).status, 0);
  const Finished answer = Ask();
  ASSERT_EQ(answer.status, 0) << answer.errors;
  std::map<std::string, nlohmann::json> stored;
  for (const std::string id : {"d0", "d3", "d5", "d7"}) stored[id] = Stored(id);

  const std::vector<std::string> carrier = {"--carrier", GetParam()};
  NodeProcess node(directory_);
  ASSERT_TRUE(node.Start());
  Use(node);
  const Finished ingested = Run("ingest", {input, "--carrier", GetParam()});
  ASSERT_EQ(ingested.status, 0) << ingested.errors;
  EXPECT_THAT(ingested.output, HasSubstr("8 documents: 8 added, 0 already complete, 0 failed"));
  EXPECT_THAT(Run("ingest", {input, "--carrier", GetParam()}).output, HasSubstr("0 added, 8 already complete"));
  for (const auto& [id, document] : stored) EXPECT_EQ(Stored(id), document);
  const Finished linked = Ask(carrier);
  EXPECT_EQ(linked.status, 0) << linked.errors;
  EXPECT_EQ(linked.output, answer.output);
  EXPECT_THAT(linked.errors, AllOf(HasSubstr("encodings: 3 from"), Not(HasSubstr("encoded now"))));
  // Killed and restarted, the node reads them from its segments.
  node.Kill();
  ASSERT_TRUE(node.Start());
  const Finished later = Ask(carrier);
  EXPECT_EQ(later.output, answer.output) << later.errors;
  EXPECT_THAT(later.errors, AllOf(HasSubstr("encodings: 3 from disk"), Not(HasSubstr("encoded now"))));
  const Finished verified = Run("verify", {});
  EXPECT_EQ(verified.status, 0) << verified.errors;
  EXPECT_THAT(verified.output, HasSubstr("8 encodings"));
  EXPECT_EQ(node.Stop(), 0) << node.process().errors();
  // The log contains no text of documents or users.
  const std::string log = node.process().errors();
  EXPECT_THAT(log, HasSubstr("\"event\":\"connection_opened\""));
  for (const char* said : {"grains", "glass", "Number "}) EXPECT_THAT(log, Not(HasSubstr(said)));

  UseDirectory(directory_);
  EXPECT_EQ(Run("verify", {}).status, 0);
  for (const auto& [id, document] : stored) EXPECT_EQ(Stored(id), document);
}

INSTANTIATE_TEST_SUITE_P(Carriers, CliCarrierTest, ::testing::Values("ucx", "mapped", "grpc"),
                         [](const auto& info) { return info.param; });

TEST_F(CliNodeTest, StatusNamespacesAndDrain) {
  NodeProcess node(directory_);
  ASSERT_TRUE(node.Start());
  Use(node);
  ASSERT_EQ(Run("ingest", {Write("in.jsonl", Lines(0, 4))}).status, 0);
  const auto admin = [&](std::vector<std::string> words) {
    words.insert(words.begin(), KVLINK_BINARY);
    words.insert(words.end(), {"--store", node.address()});
    return RunToEnd(words);
  };
  const Finished set = admin({"namespace", "default", "--capacity", "1G"});
  EXPECT_EQ(set.status, 0) << set.errors;
  EXPECT_THAT(set.output, HasSubstr("default: capacity 1 GiB, the node's default pinned limit; 4 documents"));
  // Only the given limit is set; without one, the command shows both.
  EXPECT_THAT(admin({"namespace", "default", "--pinned", "100M"}).output,
              HasSubstr("capacity 1 GiB, pinned limit 100"));
  EXPECT_THAT(admin({"namespace", "default"}).output, HasSubstr("capacity 1 GiB, pinned limit 100 MiB"));
  EXPECT_THAT(admin({"namespace", "default", "--pinned", "0"}).output, HasSubstr("capacity 1 GiB, the node's default"));
  EXPECT_THAT(admin({"namespace", "default"}).output, HasSubstr("; revision 3"));
  const Finished old = admin({"namespace", "default", "--capacity", "2G", "--revision", "3"});
  EXPECT_NE(old.status, 0);
  EXPECT_THAT(old.errors, HasSubstr("revision 3 does not replace the current revision 3"));
  EXPECT_THAT(admin({"namespace", "default", "--pinned", "0", "--revision", "9"}).output,
              AllOf(HasSubstr("capacity 1 GiB"), HasSubstr("; revision 9")));
  const auto limits = nlohmann::json::parse(admin({"namespace", "default", "--json"}).output, nullptr, false);
  EXPECT_EQ(limits["name"], "default");
  EXPECT_EQ(limits["capacity_bytes"], int64_t{1} << 30);
  EXPECT_EQ(limits["pinned_limit_bytes"], 0);
  EXPECT_EQ(limits["revision"], 9);
  EXPECT_EQ(limits["documents"], 4);
  EXPECT_EQ(limits["bytes_over"], 0);
  const Finished status = admin({"status"});
  EXPECT_EQ(status.status, 0) << status.errors;
  EXPECT_THAT(status.output, HasSubstr("default: 4 documents, 4 encodings"));
  EXPECT_THAT(status.output, HasSubstr("of 1 GiB"));
  const auto json = nlohmann::json::parse(admin({"status", "--json"}).output, nullptr, false);
  ASSERT_FALSE(json.is_discarded());
  EXPECT_EQ(json["namespaces"][0]["documents"], 4);
  EXPECT_EQ(json["namespaces"][0]["capacity_bytes"], int64_t{1} << 30);
  EXPECT_EQ(json["namespaces"][0]["revision"], 9);
  const std::string id = json["texts"]["node_id"], incarnation = json["texts"]["incarnation"];
  EXPECT_EQ(id.size(), 32u);
  EXPECT_THAT(status.output, HasSubstr(id + "  incarnation " + incarnation));
  EXPECT_GT(json["values"]["bytes_written"], 0);
  EXPECT_EQ(json["texts"]["state"], "serving");

  const Finished drained = admin({"drain", "--json"});
  EXPECT_EQ(drained.status, 0) << drained.errors;
  EXPECT_EQ(nlohmann::json::parse(drained.output, nullptr, false),
            (nlohmann::json{{"address", node.address()}, {"drain", "complete"}, {"stopping", false}}));
  const Finished late = Run("ingest", {Write("late.jsonl", Lines(4, 5)), "--outage", "1"});
  EXPECT_EQ(late.status, 5);
  EXPECT_THAT(late.errors, HasSubstr("drain"));
  const Finished stopped = admin({"drain", "--stop"});
  // A drained node opens no sessions, except an administrator's.
  EXPECT_EQ(stopped.status, 0) << stopped.errors;
  EXPECT_EQ(node.process().Wait(), 0) << node.process().errors();
}

TEST_F(CliNodeTest, KilledWhileItIsWrittenTo) {
  std::mt19937_64 random(TestSeed());
  const int documents = 60;
  const std::string input = Write("in.jsonl", Lines(0, documents));
  const int rounds = Soak() ? 100 : 2;
  int failed = 0;
  for (int round = 0; round < rounds; ++round) {
    fs::remove_all(directory_);
    NodeProcess node(directory_);
    ASSERT_TRUE(node.Start());
    Use(node);
    // It waits for more input after the file, so that it cannot end before the node does.
    Subprocess ingest(Command("ingest", {input, "-", "--batch-tokens", "64", "--outage", "5"}),
                      {.keep_input_open = true});
    absl::SleepFor(absl::Microseconds(random() % 600000));
    node.Kill();
    if (random() % 2 == 0) {
      ASSERT_TRUE(node.Start());
      ingest.CloseInput();
      const int status = ingest.Wait();  // it continued, or reported what failed
      if (status != 0) {
        EXPECT_THAT(ingest.errors(), HasSubstr("kvlink ingest: "));
      }
      failed += status != 0;
    } else {
      ingest.CloseInput();
      const int status = ingest.Wait();
      failed += status != 0;
      ASSERT_TRUE(node.Start());
    }
    const Finished verify = Run("verify", {});
    EXPECT_EQ(verify.status, 0) << verify.output << verify.errors;
    CheckCatalogued();
    const Finished resumed = Run("ingest", {input});
    EXPECT_EQ(resumed.status, 0) << resumed.errors;
    const nlohmann::json store = Inspect({"store"});
    EXPECT_EQ(store["namespaces"][0]["documents"], documents);
    EXPECT_EQ(store["namespaces"][0]["encodings"], documents);
  }
  std::printf("%d of %d ingests ended with an error\n", failed, rounds);
}

TEST_F(CliNodeTest, ANodeThatDiesWhileAskedCostsTimeAndNotTheAnswer) {
  const std::string input = Write("in.jsonl", Lines(0, 8));
  NodeProcess node(directory_);
  ASSERT_TRUE(node.Start());
  Use(node);
  ASSERT_EQ(Run("ingest", {input}).status, 0);
  const Finished answer = Ask();
  ASSERT_EQ(answer.status, 0) << answer.errors;
  Subprocess chat(Command("ask", {"--doc", "d0", "--doc", "d5", "--doc", "d3", "--max-tokens", "12", "--chat"}),
                  {.input = "How many grains are there?\n", .keep_input_open = true});
  const absl::Time deadline = SteadyNow() + absl::Minutes(1);
  while (chat.errors().find("encodings:") == std::string::npos && SteadyNow() < deadline && chat.running()) {
    absl::SleepFor(absl::Milliseconds(10));
  }
  node.Kill();
  chat.CloseInput();
  EXPECT_EQ(chat.Wait(), 0) << chat.errors();
}

TEST_F(CliNodeTest, WhoIsUnknownOrMayNotIsRefused) {
  const std::string access = Key("access",
                                 "# name key rights namespaces\n"
                                 "indexer 0123456789abcdef0 write default\n"
                                 "reader  0123456789abcdef1 read default\n"
                                 "boss    0123456789abcdef2 admin *\n");
  NodeProcess node(directory_, {"--access-file", access});
  ASSERT_TRUE(node.Start());
  Use(node);
  const std::string input = Write("in.jsonl", Lines(0, 8));
  ExpectRefused(Run("ingest", {input}), "ingest", {node.address(), "--key-file"});
  ExpectRefused(Run("ingest", {input, "--key-file", Key("wrong", "0123456789abcdefX")}), "ingest", {node.address()});
  const Finished reading = Run("ingest", {input, "--key-file", Key("reader", "0123456789abcdef1")});
  EXPECT_EQ(reading.status, 4);
  EXPECT_THAT(reading.errors, HasSubstr("right"));
  const std::string indexer = Key("indexer", "0123456789abcdef0");
  EXPECT_EQ(Run("ingest", {input, "--key-file", indexer}).status, 0);
  const Finished elsewhere = Run("ingest", {input, "--key-file", indexer, "--namespace", "other"});
  EXPECT_EQ(elsewhere.status, 4);
  EXPECT_THAT(elsewhere.errors, HasSubstr("other"));
  EXPECT_EQ(Ask({"--key-file", Path("reader")}).status, 0);
  const auto drain = [&](const std::string& key) {
    return RunToEnd({KVLINK_BINARY, "drain", "--stop", "--store", node.address(), "--key-file", key});
  };
  ExpectRefused(drain(indexer), "drain", {"right"});
  EXPECT_EQ(drain(Key("boss", "0123456789abcdef2")).status, 0);
  EXPECT_EQ(node.process().Wait(), 0);
}

TEST_F(CliNodeTest, SighupReadsTheAccessFileAnew) {
  const auto grant = [&](const std::string& key) { return Key("access", absl::StrCat("a ", key, " write default\n")); };
  NodeProcess node(directory_, {"--access-file", grant("0123456789abcdef0")});
  ASSERT_TRUE(node.Start());
  Use(node);
  const std::string input = Write("in.jsonl", Lines(0, 2));
  const std::string before = Key("before", "0123456789abcdef0"), now = Key("now", "0123456789abcdef1");
  EXPECT_EQ(Run("ingest", {input, "--key-file", before}).status, 0);
  grant("0123456789abcdef1");
  kill(node.process().pid(), SIGHUP);
  const absl::Time deadline = SteadyNow() + absl::Minutes(1);
  while (Run("ingest", {input, "--key-file", before}).status == 0 && SteadyNow() < deadline) {
    absl::SleepFor(absl::Milliseconds(50));
  }
  ExpectRefused(Run("ingest", {input, "--key-file", before}), "ingest", {node.address()});
  EXPECT_EQ(Run("ingest", {input, "--key-file", now}).status, 0);
  EXPECT_EQ(node.Stop(), 0);
}

// As one with many clients and segment files may be.
TEST_F(CliNodeTest, ANodeWithoutDescriptorsEnds) {
  NodeProcess node(directory_);
  ASSERT_TRUE(node.Start());
  const pid_t process = node.process().pid();
  rlimit limit{};
  ASSERT_EQ(prlimit(process, RLIMIT_NOFILE, nullptr, &limit), 0);
  limit.rlim_cur = 0;  // becomes the lowest that is free
  while (fs::is_symlink(absl::StrCat("/proc/", process, "/fd/", limit.rlim_cur))) ++limit.rlim_cur;
  ASSERT_EQ(prlimit(process, RLIMIT_NOFILE, &limit, nullptr), 0);
  node.process().Signal(SIGTERM);
  const absl::Time deadline = SteadyNow() + absl::Minutes(1);
  while (node.process().running() && SteadyNow() < deadline) absl::SleepFor(absl::Milliseconds(10));
  ASSERT_FALSE(node.process().running());
  EXPECT_EQ(node.process().Wait(), 0) << node.process().errors();
}

// A node trusts every peer that reaches UCX's port (docs/operations.md).
TEST_F(CliNodeTest, UcxListensBeyondThisHostOnlyWhereItIsNamed) {
  const std::string access = Key("access", "a 0123456789abcdef0 write default\n");
  NodeProcess node(directory_, {"--listen", "0.0.0.0:0", "--data", "auto", "--access-file", access, "--insecure"});
  ASSERT_TRUE(node.Start());
  EXPECT_EQ(node.ready()["ucx"], "");
  EXPECT_EQ(node.Stop(), 0);
}

TEST_F(CliNodeTest, WhatCannotBeServedOrReachedIsSaidInALine) {
  const auto serve = [&](std::vector<std::string> words) {
    words.insert(words.begin(), {KVLINK_BINARY, "store", "--store", directory_});
    return RunToEnd(words);
  };
  ExpectRefused(serve({"--listen", "0.0.0.0:0"}), "store", {"0.0.0.0:0", "name an access file"});
  ExpectRefused(serve({"--listen", "nowhere"}), "store", {"nowhere"});
  ExpectRefused(serve({"--access-file", Path("missing")}), "store", {"missing"});
  ExpectRefused(RunToEnd({KVLINK_BINARY, "store", "--store", "127.0.0.1:7400"}), "store", {"is the address of a node"});
  ExpectRefused(RunToEnd({KVLINK_BINARY, "status", "--store", directory_}), "status", {directory_, "HOST:PORT"});
  UseDirectory("127.0.0.1:1");
  ExpectRefused(Run("verify", {}), "verify", {"127.0.0.1:1"});
  const Finished status = RunToEnd({KVLINK_BINARY, "status", "--store", "127.0.0.1:1"});
  ExpectRefused(status, "status", {"no node answers at 127.0.0.1:1 (connection refused)"});

  NodeProcess node(directory_);
  ASSERT_TRUE(node.Start());
  ExpectRefused(serve({"--listen", "127.0.0.1:0"}), "store", {directory_, "in use"});
  ExpectRefused(RunToEnd({KVLINK_BINARY, "store", "--store", Path("other"), "--listen", node.address()}), "store",
                {node.address()});
  UseDirectory(directory_);
  ExpectRefused(Run("verify", {}), "verify", {directory_, "in use"});
}

}  // namespace
}  // namespace kvlink::testing
