// Serves one page over HTTP, for Prometheus: GET /metrics. A connection gets one answer and is closed.
//
// Connections that send no request cost a descriptor each but delay no other. Their number is limited; when one more
// arrives, the longest silent is closed.
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

  // Serves at "host:port"; port 0 picks a free one. INVALID_ARGUMENT: not an address. UNAVAILABLE: cannot listen there.
  static absl::StatusOr<std::unique_ptr<PageServer>> Start(const std::string& address, Page page);
  ~PageServer();

  const std::string& address() const { return address_; }

 private:
  struct Peer {
    Descriptor socket;
    absl::Time until;  // closed at this time in any case
    std::string request, answer;
    size_t sent = 0;
  };
  PageServer(Page page, size_t max_peers) : page_(std::move(page)), max_peers_(max_peers) {}
  void Run();
  void Take(absl::Time now);
  void MakeRoom();
  // Continues with a peer. Returns false when done with it.
  bool Serve(Peer* peer, absl::Time now);
  std::string AnswerTo(absl::string_view request) const;

  const Page page_;
  const size_t max_peers_;
  std::string address_;
  Descriptor listener_, wake_;

  // Used only by the thread.
  std::list<Peer> peers_;  // in order of arrival
  absl::Time listen_again_ = absl::InfinitePast();
  Thread thread_;
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_WATCH_PAGE_SERVER_H_
