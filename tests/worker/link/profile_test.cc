#include "worker/link/profile.h"

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests_source_dir.h"
#include "worker/link/link_embeddings.h"
#include "worker/link/shipped_profiles.h"

namespace kvlink::link {
namespace {

using ::testing::HasSubstr;

model::ModelConfig Llama3() {
  model::ModelConfig config;
  config.vocab = 128256;
  return config;
}

TEST(LinkProfile, ShippedOnesParseAndFitTheirModels) {
  for (const ShippedProfile& shipped : ShippedProfiles()) {
    const auto profile = LoadLinkProfile(std::string(shipped.name));
    ASSERT_TRUE(profile.ok()) << profile.status();
    EXPECT_EQ(profile->name, shipped.name);
    EXPECT_TRUE(CheckProfile(*profile, Llama3()).ok());
  }
  const auto untuned = LoadLinkProfile("untuned");
  EXPECT_FALSE(untuned->trained);
  EXPECT_EQ(untuned->place, LinkProfile::Place::kInUser);
  const auto five = LoadLinkProfile("kvlink-llama-5");
  EXPECT_TRUE(five->trained);
  EXPECT_EQ(five->links_per_document, 5);
  EXPECT_EQ(five->slots, 40);
  EXPECT_EQ(*five->first_link_id, 128011);
  EXPECT_EQ(*five->mem_start, 128254);
  EXPECT_EQ(*five->mem_end, 128255);
  EXPECT_EQ(five->linker, Linker(Linker::kLinks));
  EXPECT_EQ(DocumentText(*five, "Io", "A moon."), "Document (Title: Io) A moon.\n");
  // Their last link id stays clear of the markers.
  EXPECT_LT(128011 + 40 * 5 - 1, 128254);
}

TEST(LinkProfile, CheckRefusesAModelWithFewerIds) {
  model::ModelConfig small;
  small.vocab = 49152;
  const absl::Status status = CheckProfile(*LoadLinkProfile("kvlink-llama-1"), small);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("belongs to another model"));
}

TEST(LinkProfile, RefusesWhatDoesNotFitTogether) {
  const struct {
    const char* json;
    const char* says;
  } cases[] = {
      {"", "not a JSON object"},
      {"[1]", "not a JSON object"},
      {"{\"name\": \"x\"", "not a JSON object"},
      {"{}", "'name' is missing"},
      {R"({"name":"x","sluts":3})", "'sluts' is not known"},
      {R"({"name":7})", "'name' must be a string"},
      {R"({"name":"x","trained":1})", "'trained' must be true or false"},
      {R"({"name":"x","slots":-1})", "'slots' must be an integer"},
      {R"({"name":"x","slots":1e30})", "'slots' must be an integer"},
      {R"({"name":"x","mem_start":4294967296})", "'mem_start' must be an integer"},
      {R"({"name":"x","links_per_document":5})", "'slots' must be at least 1"},
      {R"({"name":"x","links_per_document":5,"slots":4})", "'first_link_id' or 'link_embeddings_file'"},
      {R"({"name":"x","links_per_document":5,"slots":4,"first_link_id":9,"link_embeddings_file":"a"})", "but not both"},
      {R"({"name":"x","links_per_document":256,"slots":65536,"first_link_id":2147000000})", "leaves no room"},
      {R"({"name":"x","first_link_id":4})", "'links_per_document' is 0"},
      {R"({"name":"x","document_template":"no place"})", "must hold {text} exactly once"},
      {R"({"name":"x","document_template":"{text}{text}"})", "must hold {text} exactly once"},
      {R"({"name":"x","document_template":"Document {index}: {text}"})", "{index}"},
      {R"({"name":"x","place":"anywhere"})", "'place' must be"},
      {R"({"name":"x","wrapper":"w.safetensors"})", "'wrapper' must be an object"},
      {R"({"name":"x","wrapper":{"header":8,"trailer":8}})", "'wrapper.file' is missing"},
      {R"({"name":"x","wrapper":{"file":"w"}})", "'wrapper' has neither header nor trailer"},
      {R"({"name":"x","wrapper":{"file":"w","header":0,"trailer":0}})", "'wrapper' has neither header nor trailer"},
      {R"({"name":"x","wrapper":{"file":"w","header":1025}})", "'wrapper.header' must be an integer from 0 to 1024"},
      {R"({"name":"x","wrapper":{"file":"w","trailer":-1}})", "'wrapper.trailer' must be an integer"},
      {R"({"name":"x","wrapper":{"file":3,"trailer":1}})", "'wrapper.file' must be a string"},
      {R"({"name":"x","wrapper":{"file":"w","tailer":1}})", "'wrapper.tailer' is not known; fields are file, header"},
  };
  for (const auto& c : cases) {
    const auto profile = ParseLinkProfile(c.json, "");
    ASSERT_FALSE(profile.ok()) << c.json;
    EXPECT_EQ(profile.status().code(), absl::StatusCode::kInvalidArgument) << c.json;
    EXPECT_THAT(profile.status().message(), HasSubstr(c.says)) << c.json;
    EXPECT_EQ(profile.status().message().find('\n'), absl::string_view::npos);
  }
}

TEST(LinkProfile, NamesTheLinkerOfRequestsThatNameNone) {
  EXPECT_EQ(ParseLinkProfile(R"({"name":"p"})", "")->linker, Linker(Linker::kConcat));
  EXPECT_EQ(ParseLinkProfile(R"({"name":"p","linker":"head-8+prophet-5"})", "")->linker,
            Linker(Linker::kConcat, 8, Linker::kProphet, 5));
  const auto wrong = ParseLinkProfile(R"({"name":"p","linker":"prophet"})", "");
  EXPECT_EQ(wrong.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(wrong.status().message(), HasSubstr("'linker'"));
}

TEST(LinkProfile, FilesAreFoundBesideTheProfile) {
  const std::filesystem::path directory = std::filesystem::path(testing::TempDir()) / "kvlink_profile_test";
  std::filesystem::create_directories(directory);
  const std::string path = (directory / "mine.json").string();
  std::ofstream(path)
      << R"({"name":"mine","trained":true,"links_per_document":2,"slots":3,"link_embeddings_file":"links.safetensors",)"
         R"("wrapper":{"file":"in/wrapper.safetensors","header":8,"trailer":0}})";
  const auto profile = LoadLinkProfile(path);
  ASSERT_TRUE(profile.ok()) << profile.status();
  EXPECT_EQ(profile->link_embeddings_file, (directory / "links.safetensors").string());
  EXPECT_FALSE(profile->first_link_id.has_value());
  ASSERT_TRUE(profile->wrapper.has_value());
  EXPECT_EQ(profile->wrapper->file, (directory / "in/wrapper.safetensors").string());
  EXPECT_EQ(profile->wrapper->header, 8);
  EXPECT_EQ(profile->wrapper->trailer, 0);
  EXPECT_FALSE(LoadLinkProfile("untuned")->wrapper.has_value());
  // What a request with a profile means that names no linker.
  EXPECT_EQ(LinkerName(profile->linker), "packet");
  EXPECT_EQ(LinkerName(LoadLinkProfile("untuned")->linker), "concat");
  std::filesystem::remove_all(directory);

  const auto missing = LoadLinkProfile(path);
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(missing.status().message(), HasSubstr("kvlink-llama-5"));
}

// deploy/profiles: trained for the default model, whose hidden size is 576.
TEST(LinkProfile, TheTrainedOneIsWhole) {
  const auto profile = LoadLinkProfile(KVLINK_SOURCE_DIR "/deploy/profiles/smollm2-135m/profile.json");
  ASSERT_TRUE(profile.ok()) << profile.status();
  EXPECT_EQ(profile->document_template, LoadLinkProfile("untuned")->document_template);
  ASSERT_TRUE(profile->wrapper.has_value());
  for (const auto& [name, rows] :
       {std::pair("wrapper_header", profile->wrapper->header), {"wrapper_trailer", profile->wrapper->trailer}}) {
    const auto values = ReadEmbeddings(*profile, {"wrapper", profile->wrapper->file, name, rows, 576});
    ASSERT_TRUE(values.ok()) << values.status();
    EXPECT_EQ(values->size(), static_cast<size_t>(rows * 576));
  }
}

TEST(DocumentText, FillsTheTemplateOnce) {
  LinkProfile profile;
  EXPECT_EQ(DocumentText(profile, "Moon", "It orbits."), "Title: Moon\nIt orbits.\n");
  EXPECT_EQ(DocumentText(profile, "", "It orbits."), "It orbits.\n");
  // Text of a document is never taken for a placeholder.
  EXPECT_EQ(DocumentText(profile, "{text}", "{title}"), "Title: {text}\n{title}\n");
  profile.document_template = "<{title}> {text}";
  EXPECT_EQ(DocumentText(profile, "", "a"), "<> a");
  profile.document_template = "{text}\n-- {title}";
  EXPECT_EQ(DocumentText(profile, "", "a"), "a\n");
  EXPECT_EQ(DocumentText(profile, "b", "a"), "a\n-- b");
}

}  // namespace
}  // namespace kvlink::link
