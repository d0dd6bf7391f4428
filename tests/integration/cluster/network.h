// A network of hosts on this machine: network namespaces with addresses of their own, joined by a bridge, whose routes
// and links a test cuts. Processes of the test's own namespace are on it, too, at several addresses, so that they can
// be cut off one by one.
//
//   ip netns exec NAME program    runs on a host
//
// Thread-safety: one thread at a time. What it made goes with it.
#ifndef KVLINK_TESTS_INTEGRATION_CLUSTER_NETWORK_H_
#define KVLINK_TESTS_INTEGRATION_CLUSTER_NETWORK_H_

#include <string>
#include <vector>

namespace kvlink::testing {

class Network {
 public:
  // Why this process may not make one, or what of the machine is missing; empty: it may.
  static std::string WhyNot();

  // `hosts` of them, and `locals` addresses of this namespace; the first of these is where its connections come from.
  // A test failure if it cannot be made.
  Network(int hosts, int locals);
  ~Network();
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;

  const std::string& address(int host) const { return hosts_[host].address; }
  const std::string& local(int which) const { return locals_[which]; }
  // What begins a command that is to run on the host.
  std::vector<std::string> On(int host) const;

  // What the host sends to the address is dropped; what comes from there arrives.
  void Drop(int host, const std::string& to);
  // The host hears nobody and nobody hears it.
  void Isolate(int host);
  // At most so many bytes a second leave the host.
  void Slow(int host, int bytes_per_second);
  // All as it was in the beginning.
  void Heal(int host);

 private:
  struct Host {
    std::string name, address, outer, inner;  // the ends of its link
    std::vector<std::string> dropped;
    bool isolated = false, slow = false;
  };
  std::string bridge_;
  std::vector<Host> hosts_;
  std::vector<std::string> locals_;
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_INTEGRATION_CLUSTER_NETWORK_H_
