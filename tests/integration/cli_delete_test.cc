// kvlink delete: documents by id, by list and by prefix, namespaces, and ids whose generation was set too high, in a
// directory and on a node.
#include <gmock/gmock.h>

#include <filesystem>
#include <memory>

#include "absl/strings/str_cat.h"
#include "tests/integration/cli_workplace.h"
#include "tests/integration/node_process.h"

namespace kvlink::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class CliDeleteTest : public CliTest, public ::testing::WithParamInterface<bool> {
 protected:
  void SetUp() override {
    CliTest::SetUp();
    if (!GetParam()) return;
    node_ = std::make_unique<NodeProcess>(store_);
    ASSERT_TRUE(node_->Start());
    store_ = node_->address();
  }
  Finished Delete(std::vector<std::string> words, const std::string& input = "") const {
    words.insert(words.begin(), {KVLINK_BINARY, "delete", "--store", store_});
    return RunToEnd(words, {.input = input});
  }
  std::vector<std::string> Documents(const std::string& ns = "default") const {
    std::vector<std::string> ids;
    for (const auto& document : Inspect({"documents", "--namespace", ns})) ids.push_back(document["id"]);
    return ids;
  }

  std::unique_ptr<NodeProcess> node_;
};

TEST_P(CliDeleteTest, DocumentsById) {
  ASSERT_EQ(Run("ingest", {Write("in.jsonl", Lines(0, 4))}).status, 0);
  const Finished two = Delete({"d0", "d2"});
  EXPECT_EQ(two.status, 0) << two.errors;
  EXPECT_EQ(two.output, "2 documents deleted\n");
  EXPECT_EQ(Documents(), (std::vector<std::string>{"d1", "d3"}));
  EXPECT_EQ(Inspect({"store"})["namespaces"][0]["encodings"], 2);
  const Finished missing = Delete({"d0", "d1"});
  EXPECT_EQ(missing.status, 3);
  EXPECT_EQ(missing.output, "1 document deleted\n");
  EXPECT_THAT(missing.errors, AllOf(HasSubstr("'d0': not found"), HasSubstr("1 of 2 documents were not deleted")));
  // A later ingest brings it back.
  EXPECT_THAT(Run("ingest", {Write("in.jsonl", Lines(0, 1))}).output, HasSubstr("1 added"));
  EXPECT_EQ(Documents(), (std::vector<std::string>{"d0", "d3"}));
  EXPECT_EQ(Run("verify", {}).status, 0);
}

TEST_P(CliDeleteTest, DocumentsOfAListAndByPrefix) {
  ASSERT_EQ(Run("ingest", {Write("in.jsonl", Lines(8, 12))}).status, 0);
  const std::string wrong = absl::StrCat("d8\n", std::string(300, 'x'), "\n");
  ExpectRefused(Delete({"--from", Write("wrong.txt", wrong)}), "delete", {"'xxx", "has 300 bytes"});
  EXPECT_EQ(Documents().size(), 4u) << "nothing is deleted if a line is no id";
  EXPECT_EQ(Delete({"--from", Write("old.txt",
                                    "\xef\xbb\xbf"
                                    "d8\r\n\nd10\n")})
                .output,
            "2 documents deleted\n");
  EXPECT_EQ(Documents(), (std::vector<std::string>{"d11", "d9"}));
  EXPECT_EQ(Delete({"--from", "-"}, "d9\n").output, "1 document deleted\n");
  ASSERT_EQ(Run("ingest", {Write("in.jsonl", Lines(8, 12))}).status, 0);
  EXPECT_EQ(Delete({"--prefix", "d1"}).output, "2 documents deleted\n");
  EXPECT_EQ(Documents(), (std::vector<std::string>{"d8", "d9"}));
  EXPECT_EQ(Delete({"--prefix", "zzz"}).output, "0 documents deleted\n");
}

TEST_P(CliDeleteTest, WholeNamespaces) {
  const std::string input = Write("in.jsonl", Lines(0, 3));
  ASSERT_EQ(Run("ingest", {input, "--namespace", "typo ns"}).status, 0);
  ASSERT_EQ(Run("ingest", {input}).status, 0);
  const Finished deleted = Delete({"--namespace", "typo ns", "--whole-namespace"});
  EXPECT_EQ(deleted.status, 0) << deleted.errors;
  EXPECT_THAT(deleted.output, HasSubstr("3 documents and 3 encodings"));
  const Finished again = Delete({"--namespace", "typo ns", "--whole-namespace"});
  EXPECT_EQ(again.status, 3) << again.errors;
  ExpectRefused(again, "delete", {"namespace 'typo ns'"});
  ASSERT_EQ(Inspect({"store"})["namespaces"].size(), 1u);
  EXPECT_EQ(Documents().size(), 3u);
}

TEST_P(CliDeleteTest, AGenerationSetTooHighIsRepaired) {
  const std::string input = Write("in.jsonl", Lines(0, 1));
  ASSERT_EQ(Run("ingest", {input, "--namespace", "locked", "--generation", "9223372036854775807"}).status, 0);
  const std::string changed = Write("in2.jsonl", "{\"id\":\"d0\",\"text\":\"Something else by now.\"}\n");
  EXPECT_EQ(Run("ingest", {changed, "--namespace", "locked"}).status, 1);
  if (GetParam()) {
    const Finished repaired = Delete({"--namespace", "locked", "--forget", "d0"});
    EXPECT_EQ(repaired.status, 0) << repaired.errors;
    const Finished unknown = Delete({"--namespace", "locked", "--forget", "d0"});
    EXPECT_EQ(unknown.status, 3) << unknown.errors;
    EXPECT_THAT(unknown.errors, HasSubstr("not found"));
  } else {
    EXPECT_EQ(Delete({"--namespace", "locked", "--whole-namespace"}).status, 0);
  }
  EXPECT_EQ(Run("ingest", {changed, "--namespace", "locked"}).status, 0);
}

TEST_P(CliDeleteTest, OneThingAtATime) {
  ASSERT_EQ(Run("ingest", {Write("in.jsonl", Lines(0, 2))}).status, 0);
  for (const std::vector<std::string>& words : {std::vector<std::string>{},
                                                {"d0", "--prefix", "d"},
                                                {"--prefix", ""},
                                                {"--whole-namespace"},
                                                {"--unpin"},
                                                {"--prefix", "d", "--forget"},
                                                {"--from", Path("nothing")}}) {
    const Finished refused = Delete(words);
    ExpectRefused(refused, "delete", {});
  }
  EXPECT_EQ(Documents().size(), 2u);
}

INSTANTIATE_TEST_SUITE_P(Places, CliDeleteTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Node" : "Directory"; });

}  // namespace
}  // namespace kvlink::testing
