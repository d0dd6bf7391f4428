// The ways to one node: its session, the carriers that serve it, the connections over them, opened when they are needed
// and closed when nobody uses them. What RemoteStore promises is built on it.
//
// Thread-safety: all methods. Lifetime: everything that was asked for through it ends before it.
#ifndef KVLINK_STORE_CLIENT_ROUTE_H_
#define KVLINK_STORE_CLIENT_ROUTE_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "store/client/control/control.h"
#include "store/client/control/counters.h"
#include "store/client/control/retry.h"
#include "store/client/data/client_resources.h"
#include "store/client/data/data_path.h"
#include "store/client/data/mapped.h"
#include "store/client/remote.h"

namespace kvlink::store::client {

// kMessages: a connection for requests without payloads, which on the node's host serves reads too.
enum class Need : uint8_t { kMessages, kPayloads };

// How a request of a node ends: DEADLINE_EXCEEDED before `deadline`, that of an attempt, is UNAVAILABLE, since who asks
// would take it for "not yet".
absl::Status EndOf(const absl::Status& status, const std::string& address, absl::Time deadline);

class Route {
 public:
  struct Opened {
    DataPath* path = nullptr;  // null: the connection is over a local socket, to the node whose memory is mapped
    std::shared_ptr<NodeConnection> connection;  // used for as long as this is held
  };
  using Done = std::function<void(const absl::StatusOr<Opened>& opened)>;

  explicit Route(const RemoteOptions& options);
  ~Route();

  // Opens a session and chooses carriers, unless that was done. As OpenRemote. DEADLINE_EXCEEDED at `deadline` only.
  absl::Status Establish(absl::Time deadline);
  // Dials where it must.
  absl::StatusOr<Opened> Acquire(Need need, absl::Time deadline);
  // What is open now; nothing where somebody must dial first.
  std::optional<Opened> Present(Need need);
  // Has a thread of the resources dial, and calls back there, or here where they have no room. The callback must not
  // wait.
  void Dial(Need need, Done done);
  // The way of payloads, chosen when it is first needed.
  absl::StatusOr<DataPath*> Data(absl::Time deadline);
  // Null: reads do not map.
  MappedReader* mapped() const;
  // The result of a request on `connection`, where the session's end is UNAVAILABLE, to be tried again.
  absl::Status Checked(const NodeConnection& connection, absl::Status status);
  template <typename T>
  absl::StatusOr<T> Checked(const NodeConnection& connection, absl::StatusOr<T> result) {
    if (result.ok()) return result;
    return Checked(connection, result.status());
  }
  // Until when what the node did not carry out is tried again.
  absl::Time Patience(absl::Time deadline) const { return std::min(deadline, SteadyNow() + options_.patience); }

  const RemoteOptions& options() const { return options_; }
  ClientResources& resources() { return *resources_; }
  ClientCounters& counters() { return counters_; }
  const ClientCounters& counters() const { return counters_; }
  RetryPolicy& retries() { return retries_; }
  Control& control() { return control_; }
  RequestSource& requests() { return requests_; }

  // "mapped", or the name of the data path; "nothing" before there is any.
  std::string ReadCarrier() const;
  // Why reads do not come in a better way; empty: there is none.
  std::string WhyNoBetter() const;
  void FillMemory(RemoteCounters* counters) const;

 private:
  struct Dialling;
  absl::Status EstablishOnce(absl::Time deadline);
  absl::Status TryMapping();
  // `problems`: of the carriers that were tried before.
  absl::StatusOr<std::unique_ptr<DataPath>> ChoosePath(absl::Time deadline, std::vector<std::string>* problems);
  static void RunDial(const std::shared_ptr<Dialling>& dialling, Need need, const absl::Status& turn);
  // The timer's: closes what nobody uses. When to look again.
  absl::Time CloseIdle();

  const RemoteOptions options_;
  const std::shared_ptr<ClientResources> resources_;
  ClientCounters counters_;
  RetryPolicy retries_;
  Control control_;
  RequestSource requests_;

  mutable Mutex mutex_;
  CondVar changed_;
  bool establishing_ ABSL_GUARDED_BY(mutex_) = false;  // one of the callers of Establish does
  bool established_ ABSL_GUARDED_BY(mutex_) = false;
  bool choosing_ ABSL_GUARDED_BY(mutex_) = false;  // one of the callers of Data does
  // These stay once they are there.
  std::unique_ptr<MappedReader> mapped_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<DataPath> path_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> why_no_better_ ABSL_GUARDED_BY(mutex_);
  const std::shared_ptr<Dialling> dialling_;
  std::unique_ptr<Alarm> idle_;
};

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_ROUTE_H_
