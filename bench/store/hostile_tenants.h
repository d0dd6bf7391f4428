// The tenants beside the reader of bench_isolation. Each is a process of its own that gives way to the reader where
// they share a processor (nice 19). None of these functions returns; each prints a line once it is under way.
#ifndef KVLINK_BENCH_STORE_HOSTILE_TENANTS_H_
#define KVLINK_BENCH_STORE_HOSTILE_TENANTS_H_

#include <string>

namespace kvlink::bench::isolation {

// Pushes as fast as the node accepts, into a full namespace.
[[noreturn]] void Push(const std::string& address);
// Only writes a file: the machine's part in the effect of the tenant above.
[[noreturn]] void WriteFile(const std::string& path);
// Reads twice as much as the tier holds, several encodings at a time.
[[noreturn]] void ReadMuch(const std::string& address);
// Leases everything over mapped memory until the node refuses, and keeps asking; also begins pulls for which it
// posts no receives. Releases nothing.
[[noreturn]] void LeaseAll(const std::string& address);
// Begins as many pushes as the node allows and sends nothing; begins others when they are dropped.
[[noreturn]] void PushNothing(const std::string& address);
// Verifies the whole store, again and again.
[[noreturn]] void Verify(const std::string& address);

}  // namespace kvlink::bench::isolation

#endif  // KVLINK_BENCH_STORE_HOSTILE_TENANTS_H_
