#include "tests/integration/node_clients.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"

namespace kvlink::testing {

store::client::RemoteOptions ClientOptions(const std::string& address, const std::string& carrier,
                                           absl::Duration deadline) {
  store::client::RemoteOptions options;
  options.address = address;
  const auto parsed = store::client::ParseCarrier(carrier);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  if (parsed.ok()) options.carrier = *parsed;
  options.name = "test";
  options.receive_bytes = int64_t{32} << 20;
  options.sending_bytes = int64_t{16} << 20;
  options.connect_timeout = kHangGuard;
  options.request_timeout = deadline;
  options.transfer_timeout = 2 * deadline;
  return options;
}

BusyClient::BusyClient(const store::client::RemoteOptions& options, Journal* journal, const TrafficOptions& traffic) {
  auto opened = store::client::OpenRemote(options);
  EXPECT_TRUE(opened.ok()) << opened.status();
  if (!opened.ok()) return;
  store_ = *std::move(opened);
  thread_ = std::make_unique<TrafficThread>(store_.get(), journal, traffic);
}

int64_t NodeFigures::Get(const std::string& name) const {
  const auto status = admin_->Status(SteadyNow() + kHangGuard);
  EXPECT_TRUE(status.ok()) << status.status();
  if (!status.ok()) return -1;
  const auto found = status->values.find(name);
  EXPECT_NE(found, status->values.end()) << name;
  return found == status->values.end() ? -1 : found->second;
}

bool NodeFigures::WaitForAtMost(const std::map<std::string, int64_t>& most, absl::Duration within) const {
  const absl::Time deadline = SteadyNow() + within;
  std::string left;
  do {
    const auto status = admin_->Status(SteadyNow() + kHangGuard);
    left = status.ok() ? "" : status.status().ToString();
    for (const auto& [name, value] : most) {
      if (!status.ok()) break;
      const auto found = status->values.find(name);
      if (found == status->values.end()) {
        ADD_FAILURE() << "the node does not tell " << name;
        return false;
      }
      if (found->second > value) absl::StrAppend(&left, left.empty() ? "" : ", ", name, " ", found->second);
    }
    if (left.empty()) return true;
    absl::SleepFor(absl::Milliseconds(10));
  } while (SteadyNow() < deadline);
  ADD_FAILURE() << "still there after " << absl::FormatDuration(within) << ": " << left;
  return false;
}

std::unique_ptr<Subprocess> StartClientProcess(const std::string& address, const std::string& carrier,
                                               const std::string& journal, const std::string& role, uint64_t seed,
                                               uint64_t first) {
  const auto program = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "store_client_process";
  auto process = std::make_unique<Subprocess>(
      std::vector<std::string>{program, address, carrier, journal, absl::StrCat(seed), absl::StrCat(first), role},
      SubprocessOptions{.keep_input_open = true});
  const absl::Time deadline = SteadyNow() + 3 * kHangGuard;
  const auto ready = [&] { return process->output().find("ready\n") != std::string::npos; };
  while (!ready() && process->running() && SteadyNow() < deadline) absl::SleepFor(absl::Milliseconds(1));
  if (ready()) return process;
  ADD_FAILURE() << "the client does nothing: " << process->errors();
  return nullptr;
}

}  // namespace kvlink::testing
