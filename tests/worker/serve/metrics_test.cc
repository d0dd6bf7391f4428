#include "worker/serve/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"

namespace kvlink::serve {
namespace {

using ::testing::HasSubstr;

TEST(ServeMetrics, APageInPrometheusFormat) {
  Metrics metrics("docs \"x\"");
  metrics.Ended("chat", 200, absl::Milliseconds(30));
  metrics.Ended("chat", 200, absl::Seconds(3));
  metrics.Ended("chat", 429, absl::Milliseconds(1));
  metrics.FirstToken(absl::Milliseconds(20));
  metrics.NextToken(absl::Seconds(1000));
  metrics.Answered(100, 90);
  Record record;
  record.stats.phases.dram.Add(absl::UnixEpoch(), absl::UnixEpoch() + absl::Milliseconds(7));
  record.stats.phases.dram.waited = absl::Milliseconds(2);  // the rest of the time, others were computed
  record.stats.bytes_dram = 4096;
  metrics.Took(PhasesOf(record));
  metrics.Took(PhasesOf(record));
  infer::Scheduler::Stats scheduler;
  scheduler.running = 3;
  scheduler.ended = 7;
  scheduler.cancelled = 2;
  const std::string page = metrics.Page(ReadingsOf(scheduler, {}, {}, {.sent = 4, .dropped = 5}));
  for (const char* line :
       {"kvlink_serve_requests_total{route=\"chat\",status=\"200\"} 2\n",
        "kvlink_serve_requests_total{route=\"chat\",status=\"429\"} 1\n", "kvlink_serve_requests_running 3\n",
        "kvlink_serve_answers_total{end=\"done\"} 7\n", "kvlink_serve_answers_total{end=\"cancelled\"} 2\n",
        "kvlink_serve_prompt_tokens_total 100\n", "kvlink_serve_cached_tokens_total 90\n",
        // A bound belongs to its bucket.
        "kvlink_serve_first_token_seconds_bucket{le=\"0.01\"} 0\n",
        "kvlink_serve_first_token_seconds_bucket{le=\"0.02\"} 1\n", "kvlink_serve_token_seconds_bucket{le=\"300\"} 0\n",
        "kvlink_serve_token_seconds_bucket{le=\"+Inf\"} 1\n", "kvlink_serve_spans_total{end=\"dropped\"} 5\n",
        // What has not happened is there, too.
        "kvlink_serve_loaded_bytes_total{namespace=\"docs \\\"x\\\"\",place=\"dram\"} 8192\n",
        "kvlink_serve_loaded_bytes_total{namespace=\"docs \\\"x\\\"\",place=\"disk\"} 0\n",
        "kvlink_serve_phase_seconds_sum{namespace=\"docs \\\"x\\\"\",phase=\"load\",place=\"dram\"} 0.004",
        "kvlink_serve_phase_seconds_count{namespace=\"docs \\\"x\\\"\",phase=\"decode\"} 0\n",
        "kvlink_serve_token_seconds_sum 1000\n", "kvlink_serve_request_seconds_count{route=\"chat\"} 3\n"}) {
    EXPECT_THAT(page, HasSubstr(line));
  }
}

// A family has one head, and its lines follow it.
TEST(ServeMetrics, EveryFamilyStandsTogether) {
  const std::string page = Metrics("").Page(ReadingsOf({}, {}, {}, {}));
  std::set<std::string> families;
  std::string family;
  for (const absl::string_view line : absl::StrSplit(page, '\n', absl::SkipEmpty())) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    if (words[1] == "HELP") {
      family = words[2];
      EXPECT_TRUE(families.insert(family).second) << family;
    } else {
      EXPECT_TRUE(absl::StartsWith(words[0] == "#" ? words[2] : words[0], family)) << line;
    }
  }
  EXPECT_GT(families.size(), 30u);
}

}  // namespace
}  // namespace kvlink::serve
