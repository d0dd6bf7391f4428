// Those who stand beside the reader of bench_isolation, each a process of its own that gives way to it wherever they
// share a processor (nice 19). None of these functions returns; each says a line when it is under way.
#ifndef KVLINK_BENCH_STORE_HOSTILE_TENANTS_H_
#define KVLINK_BENCH_STORE_HOSTILE_TENANTS_H_

#include <string>

namespace kvlink::bench::isolation {

// Pushes as fast as the node takes it, into a namespace that is full.
[[noreturn]] void Push(const std::string& address);
// Writes a file and nothing else: what the machine's part is of the one above.
[[noreturn]] void WriteFile(const std::string& path);
// Reads, several at a time, twice as much as the tier holds.
[[noreturn]] void ReadMuch(const std::string& address);
// Takes leases on everything that there is, over mapped memory, until the node gives no more, and asks on; and begins
// pulls for which it makes no room. Gives nothing back.
[[noreturn]] void LeaseAll(const std::string& address);
// Begins as many pushes as the node allows, and sends nothing; begins others where they are dropped.
[[noreturn]] void PushNothing(const std::string& address);
// Verifies the whole store, again and again.
[[noreturn]] void Verify(const std::string& address);

}  // namespace kvlink::bench::isolation

#endif  // KVLINK_BENCH_STORE_HOSTILE_TENANTS_H_
