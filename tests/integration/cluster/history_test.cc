// The checker of histories, on histories that break each rule and on histories that only seem to.
#include "tests/integration/cluster/history.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvlink::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Call Of(CallKind kind, int64_t begun, int64_t ended, uint64_t value, Ending ending = Ending::kOk, int client = 0) {
  return {client, kind, 7, value, begun, ended, ending};
}
Call Put(int64_t begun, int64_t ended, uint64_t value, Ending ending = Ending::kOk) {
  return Of(CallKind::kPut, begun, ended, value, ending);
}
Call Read(int64_t begun, int64_t ended, uint64_t value) { return Of(CallKind::kRead, begun, ended, value); }
Call Miss(int64_t begun, int64_t ended) { return Of(CallKind::kRead, begun, ended, 0, Ending::kAbsent); }
Call Remove(int64_t begun, int64_t ended, Ending ending = Ending::kOk) {
  return Of(CallKind::kRemove, begun, ended, 0, ending);
}
Call PutDocument(int64_t begun, int64_t ended, uint64_t generation, Ending ending = Ending::kOk) {
  return Of(CallKind::kPutDocument, begun, ended, generation, ending, 1);
}
Call GetDocument(int64_t begun, int64_t ended, uint64_t generation, int client = 0) {
  return Of(CallKind::kGetDocument, begun, ended, generation, Ending::kOk, client);
}
Call DeleteDocument(int64_t begun, int64_t ended, uint64_t generation, Ending ending = Ending::kOk) {
  return Of(CallKind::kDeleteDocument, begun, ended, generation, ending, 1);
}

TEST(HistoryTest, ReadsReturnWrittenBytes) {
  EXPECT_THAT(Check({Put(1, 2, 5), Read(3, 4, 5)}, {}), IsEmpty());
  EXPECT_THAT(Check({Put(1, 4, 5), Read(2, 3, 5)}, {}), IsEmpty()) << "while it is being written";
  EXPECT_THAT(Check({Put(1, 2, 5, Ending::kUnknown), Read(30, 31, 5)}, {}), IsEmpty());
  EXPECT_THAT(Check({Put(1, 2, 5), Read(3, 4, 6)}, {}), ElementsAre(HasSubstr("rule 1"))) << "other bytes";
  EXPECT_THAT(Check({Read(1, 2, 5), Put(3, 4, 5)}, {}), ElementsAre(HasSubstr("rule 1"))) << "before it was written";
  EXPECT_THAT(Check({Put(1, 2, 5, Ending::kFailed), Read(3, 4, 5)}, {}), ElementsAre(HasSubstr("rule 1")));
}

TEST(HistoryTest, DocumentsStayDeleted) {
  EXPECT_THAT(Check({PutDocument(1, 2, 10), DeleteDocument(3, 4, 11), GetDocument(5, 6, 10)}, {}),
              ElementsAre(HasSubstr("rule 2")));
  EXPECT_THAT(Check({PutDocument(1, 2, 10), DeleteDocument(3, 6, 11), GetDocument(5, 7, 10)}, {}), IsEmpty())
      << "not yet acknowledged";
  EXPECT_THAT(Check({PutDocument(1, 2, 10), DeleteDocument(3, 4, 11, Ending::kUnknown), GetDocument(5, 6, 10)}, {}),
              IsEmpty());
  EXPECT_THAT(
      Check({PutDocument(1, 2, 10), DeleteDocument(3, 4, 11), PutDocument(5, 6, 12), GetDocument(7, 8, 12)}, {}),
      IsEmpty())
      << "put again";
  EXPECT_THAT(
      Check({PutDocument(1, 2, 10), DeleteDocument(3, 4, 11), PutDocument(5, 6, 12), GetDocument(7, 8, 10)}, {}),
      ElementsAre(HasSubstr("rule 2")))
      << "the one before the deletion";
  // A put with a generation chosen by the catalog and an unknown outcome may take effect after the deletion.
  EXPECT_THAT(Check({PutDocument(1, 2, 0, Ending::kUnknown), DeleteDocument(3, 4, 0), GetDocument(5, 6, 13)}, {}),
              IsEmpty());
}

TEST(HistoryTest, AcknowledgedWritesAreNotMissed) {
  EXPECT_THAT(Check({Put(1, 2, 5), Miss(3, 4)}, {}), ElementsAre(HasSubstr("rule 3")));
  EXPECT_THAT(Check({Put(1, 4, 5), Miss(3, 5)}, {}), IsEmpty()) << "not yet acknowledged";
  EXPECT_THAT(Check({Put(1, 2, 5, Ending::kUnknown), Miss(3, 4)}, {}), IsEmpty());
  EXPECT_THAT(Check({Put(1, 2, 5), Remove(3, 4), Miss(5, 6)}, {}), IsEmpty());
  EXPECT_THAT(Check({Put(1, 2, 5), Remove(3, 8), Miss(5, 6)}, {}), IsEmpty()) << "being removed";
  EXPECT_THAT(Check({Put(3, 4, 5), Remove(1, 2), Miss(5, 6)}, {}), ElementsAre(HasSubstr("rule 3")))
      << "removed before it was put";
  EXPECT_THAT(Check({Remove(1, 2, Ending::kUnknown), Put(3, 4, 5), Miss(5, 6)}, {}), IsEmpty())
      << "may be removed at any time";
  EXPECT_THAT(Check({Put(1, 2, 5), Remove(3, 4, Ending::kFailed), Miss(5, 6)}, {}), ElementsAre(HasSubstr("rule 3")));
}

TEST(HistoryTest, AcknowledgedDocumentsAreFound) {
  const Call absent = Of(CallKind::kGetDocument, 5, 6, 0, Ending::kAbsent);
  EXPECT_THAT(Check({PutDocument(1, 2, 10), absent}, {}), ElementsAre(HasSubstr("rule 3")));
  EXPECT_THAT(Check({PutDocument(1, 2, 10), absent}, {{1, 9}}), ElementsAre(HasSubstr("rule 3"))) << "no excuse";
  EXPECT_THAT(Check({PutDocument(1, 2, 10), DeleteDocument(3, 4, 11), absent}, {}), IsEmpty());
  EXPECT_THAT(Check({PutDocument(1, 2, 10), DeleteDocument(3, 4, 0, Ending::kUnknown), absent}, {}), IsEmpty());
  EXPECT_THAT(Check({PutDocument(1, 2, 10, Ending::kUnknown), absent}, {}), IsEmpty());
  EXPECT_THAT(Check({DeleteDocument(1, 2, 9), PutDocument(3, 4, 10), absent}, {}), ElementsAre(HasSubstr("rule 3")));
}

TEST(HistoryTest, ExcuseLastsUntilNextWrite) {
  EXPECT_THAT(Check({Put(1, 2, 5), Miss(5, 6)}, {{3, 4}}), IsEmpty());
  EXPECT_THAT(Check({Put(1, 2, 5), Miss(5, 6)}, {{7, 9}}), ElementsAre(HasSubstr("rule 3"))) << "later";
  EXPECT_THAT(Check({Put(1, 2, 5), Put(5, 6, 5), Miss(7, 8)}, {{3, 4}}), ElementsAre(HasSubstr("rule 3")));
}

TEST(HistoryTest, GenerationsNeverGoBack) {
  EXPECT_THAT(Check({PutDocument(1, 2, 10), PutDocument(3, 4, 11), GetDocument(5, 6, 11), GetDocument(7, 8, 10)}, {}),
              ElementsAre(HasSubstr("rule 4")));
  EXPECT_THAT(
      Check({PutDocument(1, 2, 10), PutDocument(3, 4, 11), GetDocument(5, 6, 11), GetDocument(7, 8, 10, 2)}, {}),
      IsEmpty())
      << "another client";
  EXPECT_THAT(Check({PutDocument(1, 2, 10), GetDocument(3, 4, 10), GetDocument(5, 6, 10)}, {}), IsEmpty());
}

}  // namespace
}  // namespace kvlink::testing
