// One page over HTTP, for Prometheus: GET /metrics. A connection gets one answer and is closed.
//
// Connections that do not ask cost a descriptor each and nobody's turn: there is room for a number of them, and where
// one more comes, the one that has been silent longest goes.
//
// Thread-safety: all methods. Ownership: a thread of its own calls `page` until the object is destroyed.
#ifndef KVLINK_STORE_NODE_WATCH_PAGE_SERVER_H_
#define KVLINK_STORE_NODE_WATCH_PAGE_SERVER_H_

#include <functional>
#include <list>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/descriptor.h"
#include "base/thread.h"

namespace kvlink::store::node {

class PageServer {
 public:
  using Page = std::function<std::string()>;

  // Serves at "host:port"; port 0 chooses one. INVALID_ARGUMENT: no address. UNAVAILABLE: cannot listen there.
  static absl::StatusOr<std::unique_ptr<PageServer>> Start(const std::string& address, Page page);
  ~PageServer();

  const std::string& address() const { return address_; }

 private:
  struct Peer {
    Descriptor socket;
    absl::Time until;  // it is closed then, whatever it does
    std::string request, answer;
    size_t sent = 0;
  };
  PageServer(Page page, size_t max_peers) : page_(std::move(page)), max_peers_(max_peers) {}
  void Run();
  void Take(absl::Time now);
  void MakeRoom();
  // Goes on with a peer; false: it is done with.
  bool Serve(Peer* peer, absl::Time now);
  std::string AnswerTo(absl::string_view request) const;

  const Page page_;
  const size_t max_peers_;
  std::string address_;
  Descriptor listener_, wake_;

  // The thread's.
  std::list<Peer> peers_;  // in the order they came
  absl::Time listen_again_ = absl::InfinitePast();
  Thread thread_;
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_WATCH_PAGE_SERVER_H_
