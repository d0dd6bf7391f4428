// Bad input: each case is refused with one line that says what is wrong, where, and what to do, and harms no stored
// data.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <iterator>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/integration/cli_workplace.h"

namespace kvlink::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;

std::string Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

TEST_F(CliTest, BadDocumentsAreNamedOneLineEachAndTheOthersStored) {
  std::string words;
  for (int i = 0; i < 400; ++i) absl::StrAppend(&words, "word", i, " ");
  const std::string input = Write("in.jsonl", Lines(0, 2) +
                                                  "{\"id\":\"empty\",\"text\":\" \\n \"}\n"
                                                  "{\"id\":\"long\",\"text\":\"short\",\"title\":\"" +
                                                  words +
                                                  "\"}\n"
                                                  "{\"id\":\"d1\",\"text\":\"a second one\"}\n"
                                                  "{\"id\":\"bytes\",\"text\":\"\xff\"}\n"
                                                  "{\"id\":\"broken\",\n" +
                                                  Lines(2, 3));
  const std::string latin = Write("latin.txt", "caf\xe9");
  const Finished finished = Run("ingest", {input, latin});
  EXPECT_EQ(finished.status, 1);
  EXPECT_THAT(finished.output, HasSubstr("9 documents: 3 added, 0 already complete, 6 failed"));
  EXPECT_THAT(finished.errors, HasSubstr(absl::StrCat(input, ":3: document 'empty': the document is empty")));
  EXPECT_THAT(finished.errors,
              ContainsRegex("in.jsonl:4: document 'long': title and template take .* of the 256 tokens of a part"));
  EXPECT_THAT(finished.errors,
              HasSubstr(absl::StrCat(input, ":5: document 'd1': duplicate id, first used at ", input, ":2")));
  EXPECT_THAT(finished.errors, ContainsRegex("in.jsonl:6: .*invalid UTF-8 at byte"));
  EXPECT_THAT(finished.errors, ContainsRegex("in.jsonl:7: not JSON at byte 16: syntax error"));
  EXPECT_THAT(finished.errors, HasSubstr(absl::StrCat(latin, ": document 'latin.txt': invalid UTF-8 at byte 3")));
  EXPECT_THAT(finished.errors, HasSubstr("6 of 9 documents failed"));
  EXPECT_EQ(CheckCatalogued(), 3);
}

TEST_F(CliTest, AStoreOfFormat1IsRefusedByName) {
  fs::create_directories(store_);
  std::ofstream(store_ + "/STORE", std::ios::binary) << absl::HexStringToBytes(
      "4b565354010000001c0000003b2b8522000102030405460788090a0b0c0d0e0f000001000000100000000000");
  const std::string input = Write("in.jsonl", Lines(0, 1));
  for (const auto& [command, arguments] :
       {std::pair<std::string, std::vector<std::string>>("inspect", {"store"}), {"verify", {}}, {"ingest", {input}}}) {
    const Finished refused = Run(command, arguments);
    ExpectRefused(refused, command, {store_, "this store has format 1", "into a new directory"});
    EXPECT_EQ(refused.status, 4) << command;
  }
}

TEST_F(CliTest, WhatWasTypedWrongIsNamed) {
  const std::string input = Write("in.jsonl", Lines(0, 1));
  ExpectRefused(Run("ingest", {input, "--codecs", "q8"}), "ingest", {"--codecs", "--codec"});
  ExpectRefused(Run("ingest", {input, "--codec", "q5"}), "ingest", {"q5", "raw-bf16"});
  ExpectRefused(Run("ingest", {input, "--device", "tpu"}), "ingest", {"tpu", "cuda"});
  const Finished on_device = Run("ingest", {input, "--device", "cuda"});  // works if the machine has one
  if (on_device.status != 0) ExpectRefused(on_device, "ingest", {"--device cpu"});
  EXPECT_NE(on_device.status, 5) << "trying again would not help";
  ExpectRefused(Run("ingest", {Path("nothing.jsonl")}), "ingest", {"nothing.jsonl", "no such file"});
  ExpectRefused(Run("ingest", {}), "ingest", {"no input"});
  ExpectRefused(Run("ingest", {""}), "ingest", {"an input has no name"});
  ExpectRefused(Run("ingest", {input, "--threads", "1025"}), "ingest", {"--threads", "cores this process may use"});
  ExpectRefused(Run("ingest", {input, "--profile", "nobody"}), "ingest", {"nobody"});
  ExpectRefused(Run("ingest", {input, "--namespace", ""}), "ingest", {"namespace"});
  ExpectRefused(Run("ingest", {input, "--chunk-tokens", "513"}), "ingest", {"--chunk-tokens", "context", "512"});
  ExpectRefused(Run("ask", {"why?", "--host-memory", "1G"}), "ask", {"--host-memory", "--device cuda"});
  ExpectRefused(Run("ask", {"why?", "--device-buffer", "1G"}), "ask", {"--device-buffer", "--device cuda"});
  ExpectRefused(Run("inspect", {"stor"}), "inspect", {"store, documents, document ID or model"});
  ExpectRefused(Run("plan", {"llama-9"}), "plan", {"llama-9"});
  ExpectRefused(Run("inspect", {"store"}), "inspect", {store_, "no store"});
  ExpectRefused(Run("verify", {}), "verify", {store_, "no store"});
  const Finished unknown = RunToEnd({KVLINK_BINARY, "veriyf"});
  EXPECT_EQ(unknown.status, 2);
  EXPECT_EQ(unknown.errors,
            "kvlink: unknown command 'veriyf'; did you mean verify? kvlink --help lists the commands\n");
  for (const std::string command : {"ingest", "ask", "eval", "inspect", "plan", "verify"}) {
    const Finished help = RunToEnd({KVLINK_BINARY, command, "--help"}, {.environment = {"KVLINK_STORE=/store"}});
    EXPECT_EQ(help.status, 0);
    EXPECT_THAT(help.output, HasSubstr(absl::StrCat("Usage: kvlink ", command)));
    for (const absl::string_view line : absl::StrSplit(help.output, '\n')) EXPECT_LE(line.size(), 100u) << line;
    ExpectRefused(RunToEnd({KVLINK_BINARY, command, "--nothinglikeit"}), command,
                  {"--nothinglikeit", absl::StrCat("kvlink ", command, " --help")});
  }
}

TEST_F(CliTest, DamagedOrUnknownModelsAreRefusedByFile) {
  const std::string input = Write("in.jsonl", Lines(0, 1));
  const std::string config = Read(model_ + "/config.json");
  const std::string tokenizer = Read(model_ + "/tokenizer.json");
  const std::string weights = Read(model_ + "/model.safetensors");
  const auto replaced = [](std::string text, const std::string& from, const std::string& to) {
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
  };
  const struct {
    const char* file;
    std::string bytes;
    std::vector<std::string> parts;
  } cases[] = {
      {"config.json", "{", {"config.json"}},
      {"config.json", replaced(config, "LlamaForCausalLM", "GPT2LMHeadModel"), {"GPT2LMHeadModel"}},
      {"config.json",
       replaced(config, "\"hidden_size\": 64", "\"hidden_size\": 64000000000"),
       {"hidden is 64000000000"}},
      {"config.json", replaced(config, "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3"), {}},
      {"config.json", replaced(config, "\"intermediate_size\": 96", "\"intermediate_size\": 97"), {"mlp"}},
      {"config.json",
       replaced(config, "\"rope_theta\"",
                "\"rope_scaling\": {\"rope_type\": \"dynamic\", \"factor\": 2}, \"rope_theta\""),
       {"dynamic"}},
      {"tokenizer.json", tokenizer.substr(0, tokenizer.size() / 2), {"tokenizer"}},
      {"tokenizer.json", replaced(tokenizer, "\"type\": \"BPE\"", "\"type\": \"Unigram\""), {"Unigram"}},
      {"model.safetensors", weights.substr(0, weights.size() - 1000), {"model.safetensors"}},
      {"model.safetensors", weights.substr(0, 5), {"model.safetensors"}},
      {"model.safetensors", std::string(8, '\xff') + weights.substr(8), {"model.safetensors"}},
      {"model.safetensors", replaced(weights, "\"dtype\":\"F32\"", "\"dtype\":\"Q99\""), {"Q99"}},
  };
  for (const auto& bad : cases) {
    const std::string good = Read(model_ + "/" + bad.file);
    Write(std::string("model/") + bad.file, bad.bytes);
    ExpectRefused(Run("ingest", {input}), "ingest", bad.parts);
    Write(std::string("model/") + bad.file, good);
  }
  model_ = Write("broken.gguf", "GGUF and then nothing");
  ExpectRefused(Run("ingest", {input}), "ingest", {"broken.gguf"});
  model_ = Path("nomodel.gguf");
  ExpectRefused(Run("ingest", {input}), "ingest", {"nomodel.gguf", "--model"});
}

TEST_F(CliTest, DamagedOrForeignStoresAreRefusedAndLeftAlone) {
  const std::string input = Write("in.jsonl", Lines(0, 2));
  ASSERT_EQ(Run("ingest", {input}).status, 0);
  const std::string file = store_ + "/STORE";
  const std::string good = Read(file);
  std::string other_version = good;
  other_version[4] = 9;
  Write("store/STORE", other_version);
  ExpectRefused(Run("ingest", {input}), "ingest", {"STORE", "version 9"});
  std::string damaged = good;
  damaged.back() = static_cast<char>(damaged.back() ^ 1);
  Write("store/STORE", damaged);
  ExpectRefused(Run("inspect", {"store"}), "inspect", {"STORE", "damaged"});
  Write("store/STORE", good.substr(0, 10));
  ExpectRefused(Run("verify", {}), "verify", {"STORE"});
  Write("store/STORE", good);
  EXPECT_EQ(CheckCatalogued(), 2);
  EXPECT_EQ(Run("verify", {}).status, 0);

  store_ = Path("model");  // a directory with something else
  ExpectRefused(Run("ingest", {input}), "ingest", {store_, "not a store"});
  store_ = input;  // a file
  ExpectRefused(Run("ingest", {input}), "ingest", {input, "not a directory"});
  store_ = "/proc/kvlink";
  ExpectRefused(Run("ingest", {input}), "ingest", {"/proc"});
}

}  // namespace
}  // namespace kvlink::testing
