// Jobs of many changes: order, turns, errors, limits, ends.
#include "worker/serve/documents/document_jobs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "tests/support/patience.h"
#include "worker/serve/api/errors.h"

namespace kvlink::serve {
namespace {

using State = DocumentJobs::State;
using kvlink::testing::Eventually;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<DocumentChange> Changes(const std::string& prefix, int count) {
  std::vector<DocumentChange> changes(count);
  for (int i = 0; i < count; ++i) changes[i].id = absl::StrCat(prefix, i);
  return changes;
}

class DocumentJobsTest : public ::testing::Test {
 protected:
  void Start(DocumentJobs::Options options = {}) {
    options.threads = 1;
    options.pause = absl::Milliseconds(1);
    jobs_ = std::make_unique<DocumentJobs>(
        options,
        [this](const DocumentChange& change, absl::Time deadline, const std::function<bool()>& cancelled) {
          {
            MutexLock lock(&mutex_);
            applied_.push_back(change.id);
          }
          return apply_ == nullptr ? absl::OkStatus() : apply_(change, cancelled);
        },
        [this](const std::string& owner, const absl::Status& status) {
          MutexLock lock(&mutex_);
          logged_.push_back(absl::StrCat(owner, ": ", status.message()));
        });
  }
  std::vector<std::string> applied() {
    MutexLock lock(&mutex_);
    return applied_;
  }
  std::vector<std::string> logged() {
    MutexLock lock(&mutex_);
    return logged_;
  }
  std::string Begin(const std::string& owner, std::vector<DocumentChange> changes) {
    const auto id = jobs_->Begin(owner, std::move(changes));
    EXPECT_TRUE(id.ok()) << id.status();
    return id.value_or("");
  }
  DocumentJobs::Progress Ended(const std::string& owner, const std::string& id) {
    DocumentJobs::Progress progress;
    EXPECT_TRUE(Eventually([&] {
      progress = *jobs_->Show(owner, id);
      return progress.state != State::kRunning && jobs_->stats().running == 0;
    }));
    return progress;
  }
  // Changes wait until it is opened, or their job ends.
  void HoldAll() {
    apply_ = [this](const DocumentChange&, const std::function<bool()>& cancelled) {
      ++held_;
      if (Eventually([&] { return open_ || cancelled(); }) && open_) return absl::OkStatus();
      return absl::CancelledError("given up");
    };
  }
  bool Held(int count) {
    return Eventually([&] { return held_ >= count; });
  }

  std::function<absl::Status(const DocumentChange&, const std::function<bool()>&)> apply_;
  std::atomic<int> held_{0};
  std::atomic<bool> open_{false};
  Mutex mutex_;
  std::vector<std::string> applied_ ABSL_GUARDED_BY(mutex_), logged_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<DocumentJobs> jobs_;
};

TEST_F(DocumentJobsTest, ChangesAreCarriedOutInOrderAndFailAlone) {
  apply_ = [](const DocumentChange& change, const std::function<bool()>&) {
    return change.id == "a1" ? absl::InvalidArgumentError("it is empty") : absl::OkStatus();
  };
  Start();
  const DocumentJobs::Progress progress = Ended("alice", Begin("alice", Changes("a", 3)));
  EXPECT_EQ(progress.state, State::kDone);
  EXPECT_TRUE(progress.why.ok());
  EXPECT_EQ(progress.changes, 3);
  EXPECT_EQ(progress.done, 2);
  EXPECT_EQ(progress.failed, 1);
  ASSERT_EQ(progress.failures.size(), 1);
  EXPECT_EQ(progress.failures[0].index, 1);
  EXPECT_EQ(progress.failures[0].id, "a1");
  EXPECT_EQ(progress.failures[0].reason, "it is empty");
  EXPECT_THAT(applied(), ElementsAre("a0", "a1", "a2"));
  EXPECT_THAT(logged(), ElementsAre("alice: it is empty"));
  const DocumentJobs::Stats stats = jobs_->stats();
  EXPECT_EQ(stats.bytes, 0);
  EXPECT_EQ(stats.done, 1);
  EXPECT_EQ(stats.changes_done, 2);
  EXPECT_EQ(stats.changes_failed, 1);
}

TEST_F(DocumentJobsTest, ManyFailuresAreCountedAndSomeAreTold) {
  apply_ = [](const DocumentChange&, const std::function<bool()>&) { return absl::InvalidArgumentError("no"); };
  DocumentJobs::Options options;
  options.max_failures = 5;
  Start(options);
  const DocumentJobs::Progress progress = Ended("", Begin("", Changes("a", 1000)));
  EXPECT_EQ(progress.state, State::kDone);
  EXPECT_EQ(progress.failed, 1000);
  EXPECT_EQ(progress.failures.size(), 5);
}

TEST_F(DocumentJobsTest, AStoreThatIsAwayIsWaitedFor) {
  std::atomic<int> left{3};
  apply_ = [&left](const DocumentChange& change, const std::function<bool()>&) {
    return change.id == "a1" && left-- > 0 ? absl::UnavailableError("away") : absl::OkStatus();
  };
  Start();
  EXPECT_EQ(Ended("", Begin("", Changes("a", 2))).done, 2);
  EXPECT_THAT(applied(), ElementsAre("a0", "a1", "a1", "a1", "a1"));
  EXPECT_THAT(logged(), ElementsAre(": away"));  // once
}

TEST_F(DocumentJobsTest, AStoreThatStaysAwayEndsTheJob) {
  apply_ = [](const DocumentChange& change, const std::function<bool()>&) {
    return change.id == "a0" ? absl::OkStatus() : absl::UnavailableError("away");
  };
  DocumentJobs::Options options;
  options.document_timeout = absl::Milliseconds(20);
  Start(options);
  const DocumentJobs::Progress progress = Ended("", Begin("", Changes("a", 9)));
  EXPECT_EQ(progress.state, State::kFailed);
  EXPECT_EQ(progress.why.message(), "away");
  EXPECT_EQ(progress.done, 1);
  EXPECT_EQ(progress.failed, 1);
  EXPECT_EQ(jobs_->stats().failed, 1);
}

TEST_F(DocumentJobsTest, AShortJobDoesNotWaitForALongOne) {
  HoldAll();
  Start();
  const std::string first = Begin("alice", Changes("a", 50));
  ASSERT_TRUE(Held(1));
  const std::string second = Begin("bob", Changes("b", 1));
  open_ = true;
  EXPECT_EQ(Ended("bob", second).done, 1);
  EXPECT_EQ(Ended("alice", first).done, 50);
  EXPECT_THAT(applied()[1], "b0");
}

TEST_F(DocumentJobsTest, ACancelledJobKeepsWhatIsDone) {
  HoldAll();
  Start();
  const std::string first = Begin("alice", Changes("a", 5)), second = Begin("alice", Changes("b", 5));
  ASSERT_TRUE(Held(1));
  EXPECT_EQ(jobs_->Cancel("bob", first).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(jobs_->Cancel("alice", second)->state, State::kCancelled);
  EXPECT_EQ(jobs_->Cancel("alice", first)->state, State::kCancelled);
  const DocumentJobs::Progress progress = Ended("alice", first);
  EXPECT_EQ(progress.state, State::kCancelled);
  EXPECT_EQ(progress.done + progress.failed, 0);
  EXPECT_THAT(applied(), ElementsAre("a0"));
  EXPECT_THAT(logged(), ElementsAre());
  EXPECT_EQ(jobs_->stats().cancelled, 2);
  EXPECT_EQ(jobs_->stats().bytes, 0);
  EXPECT_EQ(jobs_->Cancel("alice", first)->state, State::kCancelled);  // again
}

TEST_F(DocumentJobsTest, JobsAndTheirBytesAreLimited) {
  HoldAll();
  DocumentJobs::Options options;
  options.max_jobs = 8;
  options.shares = 4;
  options.max_bytes = 8000;
  Start(options);
  const absl::Cleanup open = [this] { open_ = true; };
  std::vector<DocumentChange> large = Changes("large", 1);
  large[0].text.assign(2000, 'x');
  const absl::Status too_large = jobs_->Begin("alice", large).status();
  EXPECT_EQ(KindOf(too_large).http_status, 413) << too_large;
  large[0].text.resize(1200);
  Begin("alice", large);
  EXPECT_EQ(KindOf(jobs_->Begin("alice", large).status()).http_status, 429);
  Begin("alice", Changes("a", 1));
  const absl::Status many = jobs_->Begin("alice", Changes("a", 1)).status();
  EXPECT_EQ(KindOf(many).http_status, 429) << many;
  EXPECT_THAT(many.message(), HasSubstr("2 of them with this key"));
  for (const char* owner : {"bob", "bob", "carol", "carol", "dave", "dave"}) Begin(owner, Changes("b", 1));
  EXPECT_EQ(KindOf(jobs_->Begin("eve", Changes("e", 1)).status()).http_status, 429);  // 8 are under way
  EXPECT_EQ(jobs_->stats().running, 8);
  EXPECT_EQ(jobs_->stats().refused, 4);
  open_ = true;
  EXPECT_TRUE(Eventually([this] { return jobs_->stats().running == 0; }));
  Begin("eve", Changes("e", 1));
}

TEST_F(DocumentJobsTest, AJobIsRememberedForAWhile) {
  DocumentJobs::Options options;
  options.max_ended = 2;
  Start(options);
  std::vector<std::string> ids;
  for (int i = 0; i < 4; ++i) {
    ids.push_back(Begin("alice", Changes("a", 1)));
    Ended("alice", ids.back());
  }
  EXPECT_EQ(jobs_->Show("alice", ids[0]).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(jobs_->Show("alice", ids[3])->state, State::kDone);
  EXPECT_EQ(jobs_->Show("bob", ids[3]).status().code(), absl::StatusCode::kNotFound);
  options.kept = absl::ZeroDuration();
  Start(options);
  const std::string id = Begin("alice", Changes("a", 1));
  EXPECT_TRUE(Eventually([&] { return absl::IsNotFound(jobs_->Show("alice", id).status()); }));
}

TEST_F(DocumentJobsTest, TheJobsOfOneOwnerAreNotForgottenForAnothers) {
  DocumentJobs::Options options;
  options.max_ended = 2;
  Start(options);
  const std::string id = Begin("alice", Changes("a", 1));
  Ended("alice", id);
  for (int i = 0; i < 5; ++i) Ended("bob", Begin("bob", Changes("b", 1)));
  EXPECT_TRUE(jobs_->Show("alice", id).ok());
}

TEST_F(DocumentJobsTest, TheEndEndsJobsAndSaysSo) {
  HoldAll();
  Start();
  const std::string first = Begin("alice", Changes("a", 5)), second = Begin("bob", Changes("b", 5));
  ASSERT_TRUE(Held(1));
  jobs_->Stop();
  for (const auto& [owner, id] : {std::pair("alice", first), std::pair("bob", second)}) {
    const auto progress = jobs_->Show(owner, id);
    ASSERT_TRUE(progress.ok()) << progress.status();
    EXPECT_EQ(progress->state, State::kFailed);
    EXPECT_THAT(progress->why.message(), HasSubstr("shutting down"));
    EXPECT_EQ(progress->done + progress->failed, 0);
  }
  EXPECT_EQ(jobs_->Begin("alice", Changes("a", 1)).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(jobs_->stats().running, 0);
}

}  // namespace
}  // namespace kvlink::serve
