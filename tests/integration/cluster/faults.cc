#include "tests/integration/cluster/faults.h"

namespace kvlink::testing {
namespace {

using C = ClusterProcesses*;

constexpr int kSlowDisk = 300;      // ms
constexpr int kSlowLink = 1 << 20;  // bytes a second
constexpr int kHour = 3600;

int EtcdMember(C c, int n) { return n % c->etcd().size(); }
void Heal(C c, int n) { c->network().Heal(n); }
void SetClockRight(C c, int n) { c->MoveClock(n, 0); }

// gRPC's timers sleep until a time of the wall clock: since it was set back, they sleep for an hour (docs/cluster.md).
void Restart(C c, int n) {
  c->Stop(n);
  c->Start(n);
}

// The first of the spare hosts.
int Spare(C c) { return c->nodes(); }

void RestartEach(C c, Build build) {
  for (int i = 0; i < c->nodes(); ++i) {
    c->Stop(i);
    if (!c->Start(i, build)) return;
  }
}

}  // namespace

const std::vector<Fault>& Faults() {
  static const auto* const faults = new std::vector<Fault>{
      {.name = "freeze",
       .begin = [](C c, int n) { c->Freeze(n); },
       .end = [](C c, int n) { c->Thaw(n); },
       .away = true},
      {.name = "isolate", .begin = [](C c, int n) { c->network().Isolate(n); }, .end = Heal, .away = true},
      {.name = "answers to clients lost",
       .begin = [](C c, int n) { c->network().Drop(n, c->network().local(0)); },
       .end = Heal,
       .away = true},
      {.name = "requests of clients lost",
       .begin = [](C c, int n) { c->network().DropFrom(c->network().local(0), n); },
       .end = Heal,
       .away = true},
      {.name = "requests to etcd lost",
       .begin = [](C c, int n) { c->network().Drop(n, c->network().local(1)); },
       .end = Heal},
      {.name = "answers of etcd lost",
       .begin = [](C c, int n) { c->network().DropFrom(c->network().local(1), n); },
       .end = Heal},
      {.name = "cut off from the database",
       .begin = [](C c, int n) { c->network().Drop(n, c->network().local(2)); },
       .end = Heal},
      {.name = "cut off from one node",
       .begin = [](C c, int n) { c->network().Drop(n, c->network().address((n + 1) % c->nodes())); },
       .end = Heal},
      {.name = "slow link", .begin = [](C c, int n) { c->network().Slow(n, kSlowLink); }, .end = Heal, .away = true},
      {.name = "full disk",
       .begin = [](C c, int n) { c->FillDisk(n); },
       .end = [](C c, int n) { c->FreeDisk(n); },
       .away = true},
      {.name = "clock an hour ahead",
       .begin = [](C c, int n) { c->MoveClock(n, kHour); },
       .end = SetClockRight,
       .restore = Restart},
      {.name = "clock an hour behind",
       .begin = [](C c, int n) { c->MoveClock(n, -kHour); },
       .end = SetClockRight,
       .restore = Restart},
      {.name = "stop and start",
       .begin = [](C c, int n) { c->Stop(n); },
       .end = [](C c, int n) { c->Start(n); },
       .away = true},
      {.name = "etcd member killed",
       .begin = [](C c, int n) { c->etcd().Kill(EtcdMember(c, n)); },
       .end = [](C c, int n) { c->etcd().Restart(EtcdMember(c, n)); }},
      {.name = "etcd leader frozen",
       .begin = [](C c, int) { c->etcd().Freeze(c->etcd().Leader()); },
       .end =
           [](C c, int) {
             for (int i = 0; i < c->etcd().size(); ++i) c->etcd().Thaw(i);
           }},
      {.name = "all of etcd restarted",
       .begin =
           [](C c, int) {
             for (int i = 0; i < c->etcd().size(); ++i) c->etcd().Kill(i);
           },
       .end = [](C c, int) { c->etcd().RestartAll(); }},
      {.name = "etcd member replaced",
       .begin = [](C c, int n) { c->etcd().Kill(EtcdMember(c, n)); },
       .end = [](C c, int n) { c->etcd().Replace(EtcdMember(c, n)); }},
      {.name = "join",
       .begin = [](C c, int) { c->Start(Spare(c)); },
       .end = [](C c, int) { c->AwaitActive({Spare(c)}); },
       .restore =
           [](C c, int) {
             c->Drain(Spare(c));
             c->EmptyDisk(Spare(c));
           }},
      {.name = "drain",
       .begin = [](C c, int n) { c->Drain(n); },
       .end = [](C, int) {},
       // Returns with its encodings, or as a new node.
       .restore =
           [](C c, int n) {
             if (n % 2 == 0) c->EmptyDisk(n);
             if (c->Start(n)) c->AwaitActive({n});
           }},
      {.name = "slow disk",
       .begin = [](C c, int n) { c->SlowDisk(n, kSlowDisk); },
       .end = [](C c, int n) { c->SlowDisk(n, 0); }},
      {.name = "database fails over",
       .begin = [](C c, int) { c->FailOver(); },
       .end = [](C, int) {},
       .prepare = [](C c, int) { c->AddStandby(); },
       .database = DatabaseIs::kAwayToBegin},
      {.name = "kill", .begin = [](C c, int n) { c->Kill(n); }, .end = [](C c, int n) { c->Start(n); }, .away = true},
      {.name = "database frozen",
       .begin = [](C c, int) { c->postgres().Freeze(); },
       .end = [](C c, int) { c->postgres().Thaw(); },
       .database = DatabaseIs::kAwayToEnd},
      {.name = "database killed",
       .begin = [](C c, int) { c->postgres().Kill(); },
       .end = [](C c, int) { c->postgres().Restart(); },
       .database = DatabaseIs::kAwayToEnd},
      {.name = "rolling restart with the next build, and back",
       .begin = [](C c, int) { RestartEach(c, Build::kNext); },
       .end = [](C c, int) { RestartEach(c, Build::kThis); },
       .away = true},
  };
  return *faults;
}

}  // namespace kvlink::testing
