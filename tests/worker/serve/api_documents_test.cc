// Bodies about many documents, right and wrong: what is read of them, and which member an error names.
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/serve/api/documents.h"
#include "worker/serve/api/errors.h"

namespace kvlink::serve {
namespace {

using ::testing::ElementsAre;

template <typename T>
std::string Error(const absl::StatusOr<T>& parsed) {
  return parsed.ok() ? "accepted" : std::string(parsed.status().message());
}

std::string Of(absl::string_view documents, absl::string_view more = "") {
  return absl::StrCat(R"({"documents":)", documents, more.empty() ? "" : ",", more, "}");
}

std::string Many(absl::string_view entry, int count) {
  std::string list = absl::StrCat("[", entry);
  for (int i = 1; i < count; ++i) absl::StrAppend(&list, ",", entry);
  return Of(list + "]");
}

TEST(DocumentLists, ABatchPutsAndDeletes) {
  const auto changes = ParseBatch(Of(R"([{"id":"a","title":"T","text":"words"},{"id":"b","delete":true},
                                         {"id":"c","text":"more","title":null,"delete":false}])"));
  ASSERT_TRUE(changes.ok()) << changes.status();
  ASSERT_EQ(changes->size(), 3);
  EXPECT_EQ((*changes)[0].id, "a");
  EXPECT_EQ((*changes)[0].title, "T");
  EXPECT_EQ((*changes)[0].text, "words");
  EXPECT_FALSE((*changes)[0].deletes);
  EXPECT_EQ((*changes)[1].id, "b");
  EXPECT_TRUE((*changes)[1].deletes);
  EXPECT_EQ((*changes)[2].text, "more");
  EXPECT_FALSE((*changes)[2].deletes);
}

TEST(DocumentLists, WrongBatchesAreNamed) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"[]", "the body must be a JSON object, not a list"},
      {"{}", "documents: is missing; must be a list"},
      {Of("[]"), "documents: must not be empty"},
      {Of(R"({"id":"a"})"), "documents: must be a list, not an object"},
      {Of(R"([{"id":"a","text":"x"}])", R"("wait":1)"), R"(the body has no member "wait")"},
      {Of(R"(["a"])"), "documents[0]: must be an object, not a string"},
      {Of("[null]"), "documents[0].id: is missing; must be a string"},
      {Of(R"([{"text":"x"}])"), "documents[0].id: is missing; must be a string"},
      {Of(R"([{"id":"","text":"x"}])"), "documents[0].id: must not be empty"},
      {Of(R"([{"id":"a","text":"x"},{"id":"a"}])"), "documents[1].text: is missing; must be a string"},
      {Of(R"([{"id":"a","text":5}])"), "documents[0].text: must be a string, not a number"},
      {Of(R"([{"id":"a","txt":"x"}])"), R"(documents[0]: has no member "txt")"},
      {Of(R"([{"id":"a","delete":"yes"}])"), "documents[0].delete: must be true or false, not a string"},
      {Of(R"([{"id":"a","delete":true,"text":"x"}])"), "documents[0].text: stands beside delete"},
      {Many(R"({"id":"a","text":"x"})", 10000), "documents: has 10000 entries; must have at most 1000"}};
  for (const auto& [body, error] : cases) EXPECT_EQ(Error(ParseBatch(body)), error) << body.substr(0, 100);
  EXPECT_EQ(Error(ParseBatch(Many(R"({"id":"a","text":"x"})", 1000))), "accepted");
  EXPECT_EQ(ParameterOf(ParseBatch(Of(R"([{"id":"a"}])")).status()), "documents[0].text");
}

TEST(DocumentLists, APrefetchNamesDocumentsAndTexts) {
  const auto request = ParsePrefetch(
      Of(R"(["a",{"id":"b","parts":"2-5"},{"title":"T","text":"words"}])", R"("linker":"packet","cache_salt":"s")"));
  ASSERT_TRUE(request.ok()) << request.status();
  ASSERT_EQ(request->documents.size(), 3);
  EXPECT_EQ(request->documents[0].id, "a");
  EXPECT_EQ(request->documents[1].parts, "2-5");
  EXPECT_EQ(request->documents[2].text, "words");
  EXPECT_EQ(request->linker, "packet");
  EXPECT_EQ(request->cache_salt, "s");
  const std::vector<std::pair<std::string, std::string>> cases = {
      {Of(R"([""])"), "documents[0]: must not be empty"},
      {Of("[5]"), "documents[0]: must be an object, not a number"},
      {Of(R"(["a"])", R"("kv":{})"), R"(the body has no member "kv")"},
      {Of(R"(["a"])", R"("cache_salt":"")"), "cache_salt: must not be empty"},
      {Of(R"(["a"])", R"("linker":5)"), "linker: must be a string, not a number"},
      {Many(R"("a")", 1001), "documents: has 1001 entries; must have at most 1000"}};
  for (const auto& [body, error] : cases) EXPECT_EQ(Error(ParsePrefetch(body)), error) << body.substr(0, 100);
}

TEST(DocumentLists, PinsNameIds) {
  const auto ids = ParseDocumentIds(Of(R"(["a",{"id":"b"}])"));
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_THAT(*ids, ElementsAre("a", "b"));
  EXPECT_EQ(Error(ParseDocumentIds(Of(R"([{"id":"b","parts":"1"}])"))), R"(documents[0]: has no member "parts")");
  EXPECT_EQ(Error(ParseDocumentIds(Of("[[]]"))), "documents[0]: must be an object, not a list");
  EXPECT_EQ(Error(ParseDocumentIds(Of("[{}]"))), "documents[0].id: is missing; must be a string");
}

}  // namespace
}  // namespace kvlink::serve
