#include "worker/ingest/source/document_source.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/support/gzip.h"

namespace kvlink::ingest {
namespace {

namespace fs = std::filesystem;
using ::kvlink::testing::Gzip;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

class DocumentSourceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::path(::testing::TempDir()) / absl::StrCat("source_", getpid());
    fs::remove_all(root_);
    fs::create_directories(root_);
  }
  void TearDown() override { fs::remove_all(root_); }

  std::string Write(const std::string& name, const std::string& bytes) {
    const fs::path path = root_ / name;
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << bytes;
    return path.string();
  }

  static std::vector<SourceItem> All(const std::vector<std::string>& paths, const SourceOptions& options = {}) {
    std::vector<SourceItem> items;
    auto source = DocumentSource::Open(paths, options);
    EXPECT_TRUE(source.ok()) << source.status();
    if (!source.ok()) return items;
    while (auto item = (*source)->Next()) items.push_back(*std::move(item));
    return items;
  }
  static std::vector<std::string> Ids(const std::vector<SourceItem>& items) {
    std::vector<std::string> ids;
    for (const SourceItem& item : items) ids.push_back(item.status.ok() ? item.id : "!" + item.where);
    return ids;
  }

  fs::path root_;
};

TEST_F(DocumentSourceTest, JsonLinesGoodAndBadByLine) {
  const std::string path = Write("a.jsonl",
                                 "{\"id\":\"one\",\"title\":\"T\",\"text\":\"first\"}\r\n"
                                 "\n"
                                 "not json\n"
                                 "{\"id\":7,\"text\":\"seventh\",\"more\":[[[[1]]],{\"deep\":{}}]}\n"
                                 "{\"text\":\"no id\"}\n"
                                 "{\"id\":\"x\",\"text\":5}\n"
                                 "{\"id\":\"y\",\"text\":\"\xff\xfe\"}\n"
                                 "{\"id\":1.5,\"text\":\"t\"}\n"
                                 "{\"id\":\"z\",\"title\":[],\"text\":\"t\"}\n"
                                 "{\"id\":\"last\",\"text\":\"without newline\"}");
  const std::vector<SourceItem> items = All({path});
  EXPECT_THAT(Ids(items), ElementsAre("one", "!" + path + ":3", "7", "!" + path + ":5", "!" + path + ":6",
                                      "!" + path + ":7", "!" + path + ":8", "!" + path + ":9", "last"));
  EXPECT_EQ(items[0].title, "T");
  EXPECT_EQ(items[0].text, "first");
  EXPECT_EQ(items[2].text, "seventh");
  EXPECT_THAT(std::string(items[5].status.message()), HasSubstr("invalid UTF-8 at byte 18"));
  EXPECT_EQ(items.back().position, static_cast<int64_t>(fs::file_size(path)));
}

TEST_F(DocumentSourceTest, AByteOrderMarkIsNoText) {
  const std::string mark = "\xef\xbb\xbf";
  const std::vector<SourceItem> items =
      All({Write("a.jsonl", mark + "{\"id\":\"one\",\"text\":\"first\"}\n"), Write("b.txt", mark + "second" + mark)});
  EXPECT_THAT(Ids(items), ElementsAre("one", "b.txt"));
  EXPECT_EQ(items[0].text, "first");
  EXPECT_EQ(items[1].text, "second" + mark);
}

TEST_F(DocumentSourceTest, CompressedStreamsAreTheSameText) {
  std::string lines;
  for (int i = 0; i < 5000; ++i) absl::StrAppend(&lines, "{\"id\":\"", i, "\",\"text\":\"text of ", i * 7919, "\"}\n");
  const std::string half = lines.substr(0, lines.size() / 2), rest = lines.substr(lines.size() / 2);
  for (const std::string& bytes : {lines, Gzip(lines), Zstd(lines), Gzip(half) + Gzip(rest), Zstd(half) + Zstd(rest)}) {
    // The name says nothing about the compression: standard input has none.
    const std::vector<SourceItem> items = All({Write("b.jsonl", bytes)});
    ASSERT_EQ(items.size(), 5000u);
    for (int i = 0; i < 5000; ++i) ASSERT_EQ(items[i].id, absl::StrCat(i)) << items[i].status;
  }
}

TEST_F(DocumentSourceTest, DamagedCompressionIsNamedAndEndsOnlyItsFile) {
  std::string lines;
  for (int i = 0; i < 3000; ++i)
    absl::StrAppend(&lines, "{\"id\":\"", i, "\",\"text\":\"", i * 104729 % 99991, "\"}\n");
  const std::string good = Write("z.jsonl", "{\"id\":\"after\",\"text\":\"t\"}\n");
  for (const std::string& whole : {Gzip(lines), Zstd(lines)}) {
    for (const size_t cut : {whole.size() - 1, whole.size() / 2, size_t{6}}) {
      const std::string path = Write("cut.jsonl.gz", whole.substr(0, cut));
      const std::vector<SourceItem> items = All({path, good});
      ASSERT_GE(items.size(), 2u);
      EXPECT_EQ(items.back().id, "after");
      EXPECT_FALSE(items[items.size() - 2].status.ok());
      EXPECT_THAT(std::string(items[items.size() - 2].status.message()), HasSubstr("is truncated")) << cut;
    }
  }
  std::string damaged = Gzip(lines);
  damaged[damaged.size() / 2] ^= 0x55;
  const std::vector<SourceItem> items = All({Write("damaged.gz", damaged)});
  ASSERT_EQ(items.size(), 1u);  // a text file: one document, failed as a whole
  EXPECT_FALSE(items[0].status.ok());
}

TEST_F(DocumentSourceTest, ANameOfACompressedFileIsBelieved) {
  for (const std::string name : {"a.jsonl.gz", "a.txt.gz", "a.jsonl.zst", "a.txt.zst"}) {
    for (const std::string bytes : {"", "\x1f", "junk \xff\xfe", "{\"id\":\"a\",\"text\":\"t\"}\n"}) {
      const std::vector<SourceItem> items = All({Write(name, bytes)});
      ASSERT_EQ(items.size(), 1u) << name << " " << bytes;
      EXPECT_EQ(items[0].status.code(), absl::StatusCode::kInvalidArgument) << name << " " << bytes;
      EXPECT_THAT(std::string(items[0].status.message()),
                  HasSubstr(name.substr(name.size() - 2) == "gz" ? "gzip data" : "zstd data"));
    }
  }
  const std::string skipped("\x5e\x2a\x4d\x18\x02\0\0\0xx", 10);
  EXPECT_THAT(Ids(All({Write("a.txt.zst", skipped + Zstd("t"))})), ElementsAre("a.txt.zst"));
}

TEST_F(DocumentSourceTest, LinesAndTextsAreBounded) {
  SourceOptions options;
  options.max_document_bytes = 100;
  const std::string path = Write(
      "long.jsonl", "{\"id\":\"a\",\"text\":\"" + std::string(1000000, 'x') + "\"}\n{\"id\":\"b\",\"text\":\"t\"}\n");
  EXPECT_THAT(Ids(All({path}, options)), ElementsAre("!" + path + ":1", "b"));
  const std::string text = Write("long.txt", std::string(101, 'x'));
  EXPECT_THAT(Ids(All({text}, options)), ElementsAre("!" + text));
  for (const std::string& input : {path, text}) {
    EXPECT_THAT(std::string(All({input}, options)[0].status.message()), HasSubstr("--document-bytes"));
  }
  EXPECT_THAT(Ids(All({Write("fits.txt", std::string(100, 'x'))}, options)), ElementsAre("fits.txt"));
}

TEST_F(DocumentSourceTest, DirectoriesAreWalkedInOrder) {
  Write("d/b.txt", "b");
  Write("d/a.md", "a");
  Write("d/sub/c.txt.gz", Gzip("c"));
  Write("d/sub/e.jsonl.zst", Zstd("{\"id\":\"e1\",\"text\":\"t\"}\n"));
  Write("d/.hidden/x.txt", "x");
  Write("d/picture.png", "p");
  const std::vector<SourceItem> items = All({(root_ / "d").string()});
  EXPECT_THAT(Ids(items), ElementsAre("a.md", "b.txt", "sub/c.txt.gz", "e1"));
  EXPECT_EQ(items[2].text, "c");
  EXPECT_EQ(items[2].title, "c");
  EXPECT_FALSE(DocumentSource::Open({(root_ / "d/.hidden/..nothing").string()}, {}).ok());
  fs::create_directories(root_ / "empty");
  const auto empty = DocumentSource::Open({(root_ / "empty").string()}, {});
  EXPECT_EQ(empty.status().code(), absl::StatusCode::kNotFound);
}

// Byte by byte, whatever is a folder and what a file.
TEST_F(DocumentSourceTest, TheOrderIsThatOfWholePaths) {
  std::vector<std::string> names = {"b.txt",   "b/a.txt", "b/c/d.txt", "b/c.txt", "b0.txt", "b-.txt",
                                    "b/c-.md", "a/z.txt", "c/c/c.txt", "c.md",    "d/e.txt"};
  for (const std::string& name : names) Write("d/" + name, name);
  fs::create_directories(root_ / "d/empty/deeper");
  std::sort(names.begin(), names.end());
  const std::vector<SourceItem> items = All({(root_ / "d").string()});
  EXPECT_EQ(Ids(items), names);
  for (size_t i = 0; i < std::min(items.size(), names.size()); ++i) EXPECT_EQ(items[i].text, names[i]);
}

TEST_F(DocumentSourceTest, TextsOfOtherShardsAreNotRead) {
  std::vector<std::string> ids;
  for (int i = 0; i < 20; ++i) ids.push_back(absl::StrCat(i, ".txt"));
  SourceOptions options;
  options.shard = {1, 3};
  std::vector<std::string> ours;
  for (const std::string& id : ids) {
    if (options.shard.Has(id)) ours.push_back(id);
    // It has no bytes that are UTF-8: whoever reads it fails.
    Write("d/" + id, options.shard.Has(id) ? "text" : "\xff");
  }
  std::sort(ours.begin(), ours.end());
  EXPECT_EQ(Ids(All({(root_ / "d").string()}, options)), ours);
}

TEST_F(DocumentSourceTest, StopEndsTheWaitForAPipe) {
  const std::string path = (root_ / "pipe.jsonl").string();
  const std::string line = "{\"id\":\"a\",\"text\":\"t\"}\n";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  enum Writer { kNone, kIdle, kIdleInALine };
  for (const Writer writer : {kNone, kIdle, kIdleInALine}) {
    auto source = DocumentSource::Open({path, Write("next.jsonl", line)}, {});
    ASSERT_TRUE(source.ok()) << source.status();
    const int descriptor = writer == kNone ? -1 : open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (writer != kNone) {
      const std::string sent = writer == kIdle ? line : line + line.substr(0, 5);
      ASSERT_EQ(write(descriptor, sent.data(), sent.size()), static_cast<ssize_t>(sent.size()));
      const auto item = (*source)->Next();
      ASSERT_TRUE(item.has_value());
      EXPECT_EQ(item->id, "a") << item->status;
    }
    std::thread reader([&] { EXPECT_FALSE((*source)->Next().has_value()); });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // most times it waits by now
    (*source)->Stop();
    reader.join();
    EXPECT_FALSE((*source)->Next().has_value()) << "what is behind the pipe is not wanted either";
    if (descriptor >= 0) close(descriptor);
  }
}

TEST_F(DocumentSourceTest, APipeIsReadToItsEnd) {
  const std::string path = (root_ / "pipe.jsonl").string();
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  std::thread writer([&] {
    std::ofstream pipe(path);
    for (int i = 0; i < 20000; ++i) pipe << "{\"id\":" << i << ",\"text\":\"some text\"}\n";
  });
  EXPECT_EQ(All({path}).size(), 20000u);
  writer.join();
}

TEST_F(DocumentSourceTest, JsonErrorsHaveAPlaceAndAReason) {
  const std::pair<const char*, const char*> cases[] = {
      {"{\"id\":\"a\",\"text\":\"t\"", "not JSON at byte 21: syntax error while parsing object"},
      {"{\"id\":\"a\",\"text\":\"t\"} more", "not JSON at byte 23: syntax error"},
      {"{\"id\":NaN}", "not JSON at byte 7: syntax error while parsing value"},
      {"{'id':'a'}", "not JSON at byte 2: syntax error while parsing object key"},
      {"[1,2]", "not a JSON object but array"},
      {"{\"id\":\"a\",\"text\":\"t\",\"id\":\"b\"}", "member \"id\" appears twice"},
      {"7", "not a JSON object but number"},
  };
  for (const auto& [line, reason] : cases) {
    const std::vector<SourceItem> items = All({Write("a.jsonl", absl::StrCat(line, "\n"))});
    ASSERT_EQ(items.size(), 1u) << line;
    EXPECT_EQ(items[0].status.code(), absl::StatusCode::kInvalidArgument) << line;
    EXPECT_THAT(std::string(items[0].status.message()), HasSubstr(reason)) << line;
  }
  // Numbers that no type holds, where nobody asks for them or somebody does.
  const char* const large = "not JSON at byte 30: number overflow parsing '1e999'";
  const std::vector<SourceItem> numbers =
      All({Write("n.jsonl",
                 "{\"id\":\"a\",\"text\":\"t\",\"n\":1e999}\n"
                 "{\"id\":1e999,\"text\":\"t\"}\n"
                 "{\"id\":-18446744073709551616,\"text\":\"t\"}\n"
                 "{\"id\":\"b\",\"text\":[1,{\"text\":\"x\"}],\"title\":null}\n"
                 "{\"id\":-5,\"text\":\"t\",\"title\":null,\"x\":{\"id\":\"y\",\"text\":\"z\"}}\n")});
  ASSERT_EQ(numbers.size(), 5u);
  EXPECT_EQ(numbers[0].status.message(), large);
  EXPECT_THAT(std::string(numbers[1].status.message()), HasSubstr("number overflow"));
  EXPECT_THAT(std::string(numbers[2].status.message()), HasSubstr("neither a string nor an integer"));
  EXPECT_THAT(std::string(numbers[3].status.message()), HasSubstr("\"text\" is missing or not a string"));
  EXPECT_EQ(numbers[3].id, "b");
  EXPECT_TRUE(numbers[4].status.ok()) << numbers[4].status;
  EXPECT_EQ(numbers[4].id, "-5");
  EXPECT_EQ(numbers[4].text, "t");
  // A reason is short, whatever it quotes.
  const std::vector<SourceItem> items = All({Write("a.jsonl", "{\"id\":\"" + std::string(1 << 20, 'x') + "\n")});
  ASSERT_EQ(items.size(), 1u);
  EXPECT_LT(items[0].status.message().size(), 300u);
}

TEST_F(DocumentSourceTest, WhatMayBeLinesOrTextIsAskedAbout) {
  for (const char* name : {"a.json", "a.csv", "a.json.gz", "A.JSON"}) {
    const std::string line = "{\"id\":\"a\",\"text\":\"t\"}\n";
    const std::string path = Write(name, absl::EndsWith(name, ".gz") ? Gzip(line) : line);
    const auto refused = DocumentSource::Open({path}, {});
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr("--format jsonl or --format text")) << name;
    SourceOptions options;
    options.format = SourceOptions::Format::kJsonLines;
    EXPECT_THAT(Ids(All({path}, options)), ElementsAre("a"));
    options.format = SourceOptions::Format::kText;
    EXPECT_THAT(Ids(All({path}, options)), ElementsAre(name));
  }
}

TEST_F(DocumentSourceTest, AFolderThatCannotBeListedFailsAlone) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to become somebody who may not list a folder";
  Write("d/a.txt", "a");
  Write("d/priv/b.txt", "b");
  Write("d/z/c.txt", "c");
  Write("d/picture.png", "p");
  fs::permissions(root_, fs::perms::all);
  fs::permissions(root_ / "d/priv", fs::perms::none);
  ASSERT_EQ(seteuid(65534), 0);
  auto source = DocumentSource::Open({(root_ / "d").string()}, {});
  std::vector<SourceItem> items;
  while (source.ok()) {
    auto item = (*source)->Next();
    if (!item.has_value()) break;
    items.push_back(*std::move(item));
  }
  ASSERT_EQ(seteuid(0), 0);
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_THAT(Ids(items), ElementsAre("a.txt", "!" + (root_ / "d/priv").string(), "z/c.txt"));
  EXPECT_THAT(std::string(items[1].status.message()), HasSubstr("cannot be listed: Permission denied"));
  EXPECT_EQ((*source)->ignored_files(), 1);
}

// They may be documents: what is left out without a word is deleted by who prunes.
TEST_F(DocumentSourceTest, WhatCannotBeLookedAtFailsAlone) {
  Write("d/a.txt", "a");
  Write("d/c.txt", "c");
  fs::create_symlink(root_ / "d/c.txt", root_ / "d/good.txt");
  fs::create_symlink(root_ / "not mounted/b.txt", root_ / "d/b.txt");
  fs::create_symlink("loop.txt", root_ / "d/loop.txt");
  auto source = DocumentSource::Open({(root_ / "d").string()}, {});
  ASSERT_TRUE(source.ok()) << source.status();
  std::vector<SourceItem> items;
  while (auto item = (*source)->Next()) items.push_back(*std::move(item));
  EXPECT_THAT(Ids(items), ElementsAre("a.txt", "!" + (root_ / "d/b.txt").string(), "c.txt", "good.txt",
                                      "!" + (root_ / "d/loop.txt").string()));
  EXPECT_THAT(std::string(items[1].status.message()), HasSubstr("at the target of the link"));
  EXPECT_EQ((*source)->unnamed(), 2);
}

TEST_F(DocumentSourceTest, PositionGoesOnLineByLine) {
  std::string lines;
  for (int i = 0; i < 1000; ++i) {
    absl::StrAppend(&lines, "{\"id\":\"", i, "\",\"text\":\"", std::string(50 + i % 100, 'x'), "\"}\n");
  }
  for (const std::string& bytes : {lines, Gzip(lines), Zstd(lines)}) {
    const std::vector<SourceItem> items = All({Write("b.jsonl", bytes)});
    ASSERT_EQ(items.size(), 1000u);
    for (size_t i = 1; i < items.size(); ++i) ASSERT_GE(items[i].position, items[i - 1].position);
    EXPECT_EQ(items.back().position, static_cast<int64_t>(bytes.size()));
    EXPECT_LT(items.front().position, static_cast<int64_t>(bytes.size() / 4));
  }
}

TEST_F(DocumentSourceTest, OptionsNameOneText) {
  SourceOptions options;
  options.id = "name";
  options.title = "Title";
  const std::vector<SourceItem> items = All({Write("some.txt", "text")}, options);
  ASSERT_EQ(items.size(), 1u);
  EXPECT_EQ(items[0].id, "name");
  EXPECT_EQ(items[0].title, "Title");
  EXPECT_FALSE(DocumentSource::Open({Write("1.txt", "a"), Write("2.txt", "b")}, options).ok());
  EXPECT_FALSE(DocumentSource::Open({Write("1.jsonl", "")}, options).ok());
  options.id.clear();
  EXPECT_FALSE(DocumentSource::Open({Write("1.txt", "a"), Write("2.txt", "b")}, options).ok());
  EXPECT_FALSE(DocumentSource::Open({Write("1.jsonl", "")}, options).ok());
  EXPECT_FALSE(DocumentSource::Open({}, {}).ok());
  EXPECT_FALSE(DocumentSource::Open({"-", "-"}, {}).ok());
}

}  // namespace
}  // namespace kvlink::ingest
