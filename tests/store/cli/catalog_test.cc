// kvlink catalog: the bytes of its file, and moving a catalog from one store to another.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/own_file.h"
#include "store/cli/catalog_file.h"
#include "store/cli/catalog_walk.h"
#include "store/cli/commands.h"
#include "store/embedded/embedded.h"
#include "tests/store/synthetic.h"

namespace kvlink::cli {
namespace {

using ::kvlink::testing::EntryOf;
using ::kvlink::testing::MakeSynthetic;
using ::kvlink::testing::ScratchDirectory;
using ::kvlink::testing::Synthetic;
using ::testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

CatalogEntry Golden() {
  CatalogEntry entry;
  entry.generation = 7;
  entry.model.bytes[0] = 1;
  entry.title = "A \"moon\"";
  entry.parts.resize(1);
  entry.parts[0].identity.bytes[0] = 2;
  entry.parts[0].tokens = {5, 300};
  entry.written_at_us = 9;
  return entry;
}

TEST(CatalogFileTest, GoldenLines) {
  EXPECT_EQ(CatalogHead("docs"), R"({"kvlink_catalog":1,"namespace":"docs","marks_last":true})");
  const std::string line = CatalogLine("moon", Golden());
  EXPECT_EQ(line.substr(0, line.find("\"entry\"")),
            R"({"id":"moon","title":"A \"moon\"","generation":7,"parts":1,"tokens":2,)");
  EXPECT_THAT(line, HasSubstr(R"("entry":"S1ZMQwIA)"));  // the envelope KVLC, version 2.0
  EXPECT_THAT(LastCatalogLine(line), ::testing::EndsWith(R"(","last":true})"));
  for (const bool last : {false, true}) {
    const auto read = ParseCatalogLine(last ? LastCatalogLine(line) : line);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->last, last);
    EXPECT_EQ(read->put.id, "moon");
    EXPECT_EQ(SerializeCatalogEntry(read->put.entry), SerializeCatalogEntry(Golden()));
  }
}

TEST(CatalogFileTest, RefusesWhatItIsNot) {
  EXPECT_TRUE(ParseCatalogHead(CatalogHead("ns")).ok());
  for (const char* head : {"", "{}", "[]", "nonsense", R"({"kvlink_catalog":"1"})", R"({"id":"moon","text":"x"})"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseCatalogHead(head).status())) << head;
  }
  const absl::Status newer = ParseCatalogHead(R"({"kvlink_catalog":2})").status();
  EXPECT_TRUE(absl::IsUnimplemented(newer)) << newer;
  EXPECT_THAT(Message(newer), HasSubstr("version 2; this build reads version 1"));
  std::string damaged = CatalogLine("moon", Golden());
  damaged[damaged.size() - 8] ^= 1;
  CatalogEntry deleted;
  deleted.tombstone = true;
  const std::string deep =
      absl::StrCat(R"({"a":)", std::string(1 << 20, '['), std::string(1 << 20, ']'), R"(,"b":1,"c":2,"entry":7})");
  for (const std::string& line : {std::string("{}"), std::string("7"), std::string(R"({"id":"moon","entry":7})"),
                                  std::string(R"({"id":"moon","entry":"?"})"), damaged, CatalogLine("moon", deleted),
                                  CatalogLine("", Golden()), deep}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseCatalogLine(line).status())) << line.substr(0, 80);
  }
}

class CatalogCommandTest : public ::testing::Test {
 protected:
  std::string Path(const std::string& name) const { return scratch_.path() + "/" + name; }
  std::unique_ptr<store::Store> Open(const std::string& name) const {
    auto opened = store::OpenEmbedded(Path(name), {.dram_bytes = 32 << 20, .capacity_bytes = 32 << 20});
    EXPECT_TRUE(opened.ok()) << opened.status();
    return opened.ok() ? *std::move(opened) : nullptr;
  }
  absl::Status Run(std::vector<std::string> words) {
    std::vector<char*> args;
    for (std::string& word : words) args.push_back(word.data());
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    const absl::Status status = RunCatalog(args);
    std::fflush(stdout);
    output_ = ::testing::internal::GetCapturedStdout();
    errors_ = ::testing::internal::GetCapturedStderr();
    return status;
  }

  const ScratchDirectory scratch_;
  std::string output_, errors_;
};

TEST_F(CatalogCommandTest, GoesFromOneStoreToAnother) {
  const Synthetic a = MakeSynthetic(1), b = MakeSynthetic(2);
  {
    const auto from = Open("from");
    ASSERT_TRUE(from->Put("docs", a.manifest, a.spans(), SteadyNow() + absl::Seconds(60)).ok());
    std::vector<store::DocumentPut> puts;
    for (int i = 0; i < 2100; ++i) puts.push_back({absl::StrCat("document-", i), EntryOf({i % 2 == 0 ? &a : &b}, 5)});
    ASSERT_TRUE(from->PutDocuments("docs", puts).ok());
    ASSERT_TRUE(from->DeleteDocument("docs", "document-7", 6).ok());
    const auto to = Open("to");
    ASSERT_TRUE(to->PutDocument("docs", "document-1", EntryOf({&a, &b}, 9, "newer")).ok());
  }
  ASSERT_EQ(Run({"export", "--store", Path("from"), "--namespace", "docs", Path("file")}), absl::OkStatus());
  EXPECT_EQ(output_, "2099 documents exported\n");
  for (int round = 0; round < 2; ++round) {
    ASSERT_EQ(Run({"import", "--store", Path("to"), "--namespace", "docs", Path("file")}), absl::OkStatus());
    EXPECT_EQ(output_, "2098 documents imported; 1 skipped, the store has newer versions\n");
  }
  {
    const auto to = Open("to");
    EXPECT_EQ(to->GetDocument("docs", "document-1")->title, "newer");
    EXPECT_EQ(to->GetDocument("docs", "document-2")->generation, 5u);
    EXPECT_TRUE(absl::IsNotFound(to->GetDocument("docs", "document-7").status()));
  }
  ASSERT_EQ(Run({"check", "--store", Path("from"), "--namespace", "docs"}), absl::OkStatus());
  EXPECT_THAT(errors_, HasSubstr("2099 documents, 1049 of them with encodings missing"));
  EXPECT_THAT(output_, HasSubstr("document-1\n"));
  EXPECT_THAT(output_, ::testing::Not(HasSubstr("document-2\n")));
}

// Exports that overlap, as hourly ones of a large catalog may.
TEST_F(CatalogCommandTest, OneExportAtATimeWritesAFile) {
  ASSERT_TRUE(Open("from")->PutDocument("docs", "moon", Golden()).ok());
  std::ofstream(Path("file")) << "the last one";
  auto other = OpenOwnFile(Path("file.part"), "");
  ASSERT_TRUE(other.ok()) << other.status();
  const std::vector<std::string> words = {"export", "--store", Path("from"), "--namespace", "docs", Path("file")};
  const absl::Status refused = Run(words);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(Message(refused), HasSubstr("file.part: another process exports"));
  EXPECT_EQ(std::filesystem::file_size(Path("file")), 12u);
  other->reset();
  ASSERT_EQ(Run(words), absl::OkStatus());
  EXPECT_EQ(output_, "1 document exported\n");
}

TEST_F(CatalogCommandTest, WhatIsNoFileIsLeftAlone) {
  Open("from").reset();
  std::filesystem::create_directory(Path("folder"));
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0600), 0);
  for (const char* name : {"folder", "pipe"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Run({"export", "--store", Path("from"), Path(name)}))) << name;
  }
  EXPECT_TRUE(std::filesystem::is_fifo(Path("pipe")));
  // No store is created for a file that is no catalog.
  std::ofstream(Path("bad")) << "{}\n";
  for (const char* name : {"folder", "bad"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Run({"import", "--store", Path("new"), Path(name)}))) << name;
  }
  EXPECT_FALSE(std::filesystem::exists(Path("new")));
}

TEST_F(CatalogCommandTest, LongDocumentsAreVisitedInPartsOfAPage) {
  const auto store = Open("from");
  CatalogEntry entry = Golden();
  entry.parts[0].tokens.assign(1500000, 1);
  for (const char* id : {"a", "b", "c"}) ASSERT_TRUE(store->PutDocument("docs", id, entry).ok());
  std::vector<std::vector<std::string>> visits;
  ASSERT_EQ(WalkCatalog(*store, "docs",
                        [&](absl::Span<const Listed> documents) {
                          visits.emplace_back();
                          for (const Listed& one : documents) visits.back().push_back(one.info.id);
                          return absl::OkStatus();
                        }),
            absl::OkStatus());
  EXPECT_EQ(visits, (std::vector<std::vector<std::string>>{{"a", "b"}, {"c"}}));
}

// As when an export into a pipe is killed, which the reader of the pipe does not notice.
TEST_F(CatalogCommandTest, ACutFileIsNoticed) {
  const auto import = [this] { return Run({"import", "--store", Path("to"), "--namespace", "docs", Path("cut")}); };
  for (const int documents : {0, 3}) {
    const std::string from = absl::StrCat("from", documents);
    {
      const auto store = Open(from);
      for (int i = 0; i < documents; ++i) {
        ASSERT_TRUE(store->PutDocument("docs", absl::StrCat("d", i), Golden()).ok());
      }
    }
    ASSERT_EQ(Run({"export", "--store", Path(from), "--namespace", "docs", "-"}), absl::OkStatus());
    const std::string whole = output_;
    std::ofstream(Path("cut")) << whole;
    EXPECT_EQ(import(), absl::OkStatus());
    std::ofstream(Path("cut")) << absl::string_view(whole).substr(0, whole.rfind('\n', whole.size() - 2) + 1);
    const absl::Status status = import();
    if (documents == 0) continue;  // without a head it is no catalog
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_THAT(Message(status), HasSubstr("its last line is missing"));
    EXPECT_EQ(output_, "2 documents imported\n");
    // Behind a whole one, whose last line is in the middle now.
    const size_t head = whole.find('\n') + 1;
    std::ofstream(Path("cut")) << whole << absl::string_view(whole).substr(head, whole.find('\n', head) + 1 - head);
    EXPECT_TRUE(absl::IsDataLoss(import()));
  }
  // What an older build wrote marks no line.
  std::ofstream(Path("cut")) << R"({"kvlink_catalog":1,"namespace":"docs"})"
                             << "\n"
                             << CatalogLine("moon", Golden());
  EXPECT_EQ(import(), absl::OkStatus());
}

TEST_F(CatalogCommandTest, AFileThatCannotBeReadNamesItsLine) {
  Open("to").reset();
  EXPECT_TRUE(absl::IsNotFound(Run({"import", "--store", Path("to"), Path("nothing")})));
  std::ofstream(Path("bad")) << CatalogHead("ns") << "\n" << CatalogLine("moon", Golden()) << "\n{}\n";
  const absl::Status status = Run({"import", "--store", Path("to"), Path("bad")});
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(Message(status), HasSubstr("bad: line 3: \"id\" or \"entry\" is missing"));
  for (const std::string& zeros : {std::string(100, '\0'), CatalogHead("ns") + "\n" + std::string("\0", 1) +
                                                               CatalogLine("moon", Golden()) + "\n"}) {
    std::ofstream(Path("zeros"), std::ios::binary) << zeros;
    const absl::Status refused = Run({"import", "--store", Path("to"), Path("zeros")});
    EXPECT_TRUE(absl::IsInvalidArgument(refused)) << refused;
    EXPECT_THAT(Message(refused), HasSubstr("a zero byte"));
  }
  std::ofstream(Path("empty")) << "";
  EXPECT_TRUE(absl::IsInvalidArgument(Run({"import", "--store", Path("to"), Path("empty")})));
  for (const std::vector<std::string>& words : std::vector<std::vector<std::string>>{{}, {"export"}, {"copy", "x"}}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Run(words)));
  }
}

}  // namespace
}  // namespace kvlink::cli
