// The paths to one node: its session, the carriers that serve it, and the connections over them, opened on demand and
// closed when idle. RemoteStore is built on it.
//
// Payloads travel over one carrier at a time. Unless the options name it, it changes: to another one that works if it
// fails while the node answers, as after a restart without its port; and in a new session to a better one, if there is
// any by then.
//
// Thread-safety: all methods. Lifetime: everything requested through it must end before it.
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

// kMessages: a connection for requests without payloads; on the node's host, it also serves reads.
enum class Need : uint8_t { kMessages, kPayloads };

// The final status of a request to a node. A DEADLINE_EXCEEDED before `deadline`, which is that of an attempt, becomes
// UNAVAILABLE, since the caller would read it as "not yet".
absl::Status EndOf(const absl::Status& status, const std::string& address, absl::Time deadline);

class Route {
 public:
  struct Opened {
    DataPath* path = nullptr;  // null: a connection over a local socket, to a node whose memory is mapped
    std::shared_ptr<NodeConnection> connection;  // counts as used while this is held
  };
  using Done = std::function<void(const absl::StatusOr<Opened>& opened)>;

  explicit Route(const RemoteOptions& options);
  ~Route();

  // Opens a session and chooses carriers, unless already done. Statuses as OpenRemote; DEADLINE_EXCEEDED only at
  // `deadline`.
  absl::Status Establish(absl::Time deadline);
  // Returns a connection; dials if necessary.
  absl::StatusOr<Opened> Acquire(Need need, absl::Time deadline);
  // Returns an open connection; nullopt if one must be dialled first.
  std::optional<Opened> Present(Need need);
  // Has a thread of the resources dial, and calls `done` there, or on this thread if they have no room. `done` must not
  // block.
  void Dial(Need need, Done done);
  // The payload path, chosen on first use. It stays valid while the route lives, and a later call may return another.
  absl::StatusOr<DataPath*> Data(absl::Time deadline);
  // Null: reads do not map.
  MappedReader* mapped() const;
  // Converts the result of a request on `connection`: the end of the session becomes UNAVAILABLE, to be retried.
  absl::Status Checked(const NodeConnection& connection, absl::Status status);
  template <typename T>
  absl::StatusOr<T> Checked(const NodeConnection& connection, absl::StatusOr<T> result) {
    if (result.ok()) return result;
    return Checked(connection, result.status());
  }
  // The time until which requests that the node did not carry out are retried.
  absl::Time Patience(absl::Time deadline) const { return std::min(deadline, SteadyNow() + options_.patience); }

  const RemoteOptions& options() const { return options_; }
  ClientResources& resources() { return *resources_; }
  ClientCounters& counters() { return counters_; }
  const ClientCounters& counters() const { return counters_; }
  RetryPolicy& retries() { return retries_; }
  Control& control() { return control_; }
  RequestSource& requests() { return requests_; }

  // "mapped", or the name of the data path; "nothing" before there is one.
  std::string ReadCarrier() const;
  // Why reads do not use a better carrier; empty: none is better.
  std::string WhyNoBetter() const;
  void FillMemory(RemoteCounters* counters) const;

 private:
  struct Dialling;
  absl::Status EstablishOnce(absl::Time deadline);
  absl::Status TryMapping();
  // Those that payloads may use, the best first.
  std::vector<Carrier> Carriers() const;
  // The first that works, other than `except`. Adds why others do not to `problems`.
  absl::StatusOr<DataPath*> ChoosePath(absl::Time deadline, const DataPath* except, std::vector<std::string>* problems);
  // Chooses anew if an attempt to connect over `path`, which ended with `tried`, calls for it. Returns the path to use.
  DataPath* Reconsider(DataPath* path, const absl::Status& tried, absl::Time deadline);
  static void RunDial(const std::shared_ptr<Dialling>& dialling, Need need, const absl::Status& turn);
  // Called by the timer: closes idle connections. Returns when to look again.
  absl::Time CloseIdle();

  const RemoteOptions options_;
  const std::shared_ptr<ClientResources> resources_;
  ClientCounters counters_;
  RetryPolicy retries_;
  Control control_;
  RequestSource requests_;

  mutable Mutex mutex_;
  CondVar changed_;
  bool establishing_ ABSL_GUARDED_BY(mutex_) = false;  // by one of the callers of Establish
  bool established_ ABSL_GUARDED_BY(mutex_) = false;
  bool choosing_ ABSL_GUARDED_BY(mutex_) = false;                 // by one of the callers of Data or Reconsider
  bool improving_ ABSL_GUARDED_BY(mutex_) = false;                // likewise, while path_ works and nobody waits
  std::unique_ptr<MappedReader> mapped_ ABSL_GUARDED_BY(mutex_);  // once set, it stays
  // Of each carrier that has worked; kept, since callers hold pointers.
  std::vector<std::unique_ptr<DataPath>> paths_ ABSL_GUARDED_BY(mutex_);
  DataPath* path_ ABSL_GUARDED_BY(mutex_) = nullptr;           // the one in use
  uint64_t chosen_in_ ABSL_GUARDED_BY(mutex_) = 0;             // the session in which it was chosen
  std::string why_not_mapped_ ABSL_GUARDED_BY(mutex_);         // empty: it is, or may not be
  std::vector<std::string> problems_ ABSL_GUARDED_BY(mutex_);  // of better carriers
  const std::shared_ptr<Dialling> dialling_;
  std::unique_ptr<Alarm> idle_;
};

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_ROUTE_H_
