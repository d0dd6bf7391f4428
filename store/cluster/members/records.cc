// Records are JSON, so that etcdctl shows them and operators can read them. Parsers read through Fields, which checks
// one field at a time and keeps the first error, so that each parser is a plain list of the fields of its record.
#include "store/cluster/members/records.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "base/utf8.h"
#include "nlohmann/json.hpp"
#include "transport/address.h"

namespace kvlink::store::cluster {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxNumber = uint64_t{1} << 62;
constexpr uint32_t kMaxProtocol = 255;
constexpr size_t kMaxBuildBytes = 256, kMaxAddressBytes = 512, kMaxChangeBytes = 512;
constexpr size_t kMaxNamespaceBytes = 255, kMaxCodecBytes = 16;

bool IsNameCharacter(char c) { return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.'; }

absl::Status ValidateWord(absl::string_view what, absl::string_view word, size_t max_bytes) {
  if (word.size() <= max_bytes && std::all_of(word.begin(), word.end(), IsNameCharacter)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, " '", absl::CHexEscape(word.substr(0, max_bytes)),
                                                 "': use at most ", max_bytes, " letters, digits, '-', '_' and '.'"));
}

bool IsText(absl::string_view text) {
  return ValidUtf8Prefix(text) == text.size() &&
         std::none_of(text.begin(), text.end(), [](char c) { return absl::ascii_iscntrl(c); });
}

// Replaces invalid UTF-8, which JSON cannot hold; no caller passes any.
std::string Dump(const json& record) { return record.dump(-1, ' ', false, json::error_handler_t::replace); }

class Fields {
 public:
  // Checks `format` first: the other fields of a newer record are not read.
  Fields(absl::string_view what, absl::string_view bytes) : what_(what) {
    if (bytes.size() > kMaxRecordBytes) {
      Fail(absl::StrCat("has ", bytes.size(), " bytes, more than ", kMaxRecordBytes));
      return;
    }
    record_ = json::parse(bytes.begin(), bytes.end(), nullptr, /*allow_exceptions=*/false);
    if (!record_.is_object()) {
      Fail("is not a JSON object");
      return;
    }
    const uint64_t format = Number("format", 1, kMaxNumber);
    if (status_.ok() && format > kRecordFormat) {
      status_ = absl::UnimplementedError(absl::StrCat(
          "the ", what_, " has format ", format, "; this build reads format ", kRecordFormat, ": use a newer build"));
    }
  }

  // Reads a part of a record.
  Fields(absl::string_view what, json object) : what_(what), record_(std::move(object)) {
    if (!record_.is_object()) Fail("an element is not a JSON object");
  }

  // Calls `take` with each object of an array.
  template <typename Take>
  void Each(const char* name, size_t max, const Take& take) {
    const json* const value = Find(name);
    if (value == nullptr) return;
    if (!value->is_array() || value->size() > max) {
      Fail(absl::StrCat("'", name, "' is not an array of at most ", max));
      return;
    }
    const std::string what = absl::StrCat("'", name, "' of the ", what_);
    for (const json& object : *value) {
      Fields fields(what, object);
      take(&fields);
      if (status_.ok()) status_ = fields.status_;
    }
  }

  // Calls `take` with an object, if there is one.
  template <typename Take>
  void IfPresent(const char* name, const Take& take) {
    if (!status_.ok() || !record_.contains(name)) return;
    const std::string what = absl::StrCat("'", name, "' of the ", what_);
    Fields fields(what, record_[name]);
    take(&fields);
    if (status_.ok()) status_ = fields.status_;
  }

  uint64_t Number(const char* name, uint64_t min, uint64_t max) {
    const json* const value = Find(name);
    if (value == nullptr) return min;
    if (!value->is_number_unsigned() || value->get<uint64_t>() < min || value->get<uint64_t>() > max) {
      Fail(absl::StrCat("'", name, "' is not a whole number from ", min, " to ", max));
      return min;
    }
    return value->get<uint64_t>();
  }
  std::string Text(const char* name, size_t max_bytes) {
    const json* const value = Find(name);
    if (value == nullptr) return "";
    if (!value->is_string() || value->get_ref<const std::string&>().size() > max_bytes ||
        !IsText(value->get_ref<const std::string&>())) {
      Fail(absl::StrCat("'", name, "' is not text of at most ", max_bytes, " bytes without control characters"));
      return "";
    }
    return value->get<std::string>();
  }
  std::string Address(const char* name) {
    const std::string address = Text(name, kMaxAddressBytes);
    if (status_.ok() && !transport::ParseAddress(address).ok()) Fail(absl::StrCat("'", name, "' is not host:port"));
    return address;
  }
  NodeId Id(const char* name) {
    const std::optional<NodeId> id = IdFromHex(Text(name, 32));
    if (!id.has_value()) Fail(absl::StrCat("'", name, "' is not 32 hexadecimal digits"));
    return id.value_or(NodeId{});
  }
  std::vector<NodeId> Ids(const char* name, size_t max) {
    const json* const value = Find(name);
    if (value == nullptr) return {};
    std::vector<NodeId> ids;
    bool good = value->is_array() && value->size() <= max;
    for (size_t i = 0; good && i < value->size(); ++i) {
      const json& one = (*value)[i];
      const auto id = one.is_string() ? IdFromHex(one.get_ref<const std::string&>()) : std::nullopt;
      good = id.has_value();
      if (good) ids.push_back(*id);
    }
    if (!good) Fail(absl::StrCat("'", name, "' is not an array of at most ", max, " ids of 32 hexadecimal digits"));
    return ids;
  }
  HotName Name() {
    HotName name;
    name.ns = Text("namespace", kMaxNamespaceBytes);
    if (status_.ok() && name.ns.empty()) Fail("'namespace' is empty");
    const std::string hex = Text("identity", 2 * sizeof(name.identity.bytes)), codec = Text("codec", kMaxCodecBytes);
    const auto identity = Identity::FromHex(hex);
    if (!identity.ok()) Fail("'identity' is not 64 hexadecimal digits");
    const auto known = ParseCodec(codec);
    if (!known.ok()) Fail("'codec' is not known to this build");
    if (!status_.ok()) return name;
    name.identity.bytes = identity->bytes;
    name.codec = *known;
    return name;
  }
  MemberState State(const char* name) {
    const std::string text = Text(name, 16);
    for (const MemberState state : {MemberState::kJoining, MemberState::kActive, MemberState::kDraining}) {
      if (text == StateName(state)) return state;
    }
    Fail(absl::StrCat("'", name, "' is not joining, active or draining"));
    return MemberState::kJoining;
  }
  ProtocolRange Protocol(const char* name) {
    const json* const value = Find(name);
    if (value == nullptr) return {};
    const auto good = [](const json& number) {
      return number.is_number_unsigned() && number.get<uint64_t>() >= 1 && number.get<uint64_t>() <= kMaxProtocol;
    };
    if (!value->is_array() || value->size() != 2 || !good((*value)[0]) || !good((*value)[1]) ||
        (*value)[0].get<uint64_t>() > (*value)[1].get<uint64_t>()) {
      Fail(absl::StrCat("'", name, "' is not [least, greatest]"));
      return {};
    }
    return {(*value)[0].get<uint32_t>(), (*value)[1].get<uint32_t>()};
  }

  void Fail(absl::string_view why) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat("the ", what_, " is damaged: ", why));
  }
  void Check(const absl::Status& status) {
    if (!status.ok()) Fail(status.message());
  }
  const absl::Status& status() const { return status_; }

 private:
  const json* Find(const char* name) {
    if (!status_.ok()) return nullptr;
    const auto found = record_.find(name);
    if (found != record_.end()) return &*found;
    Fail(absl::StrCat("it has no '", name, "'"));
    return nullptr;
  }

  const absl::string_view what_;
  json record_;
  absl::Status status_;
};

// Whether `text`, a connection string in either form, contains a password. Errs towards finding one, since the string
// is published; libpq itself refuses malformed strings.
bool HoldsPassword(absl::string_view text) {
  const std::string lower = absl::AsciiStrToLower(text);
  if (absl::StrContains(lower, "password")) return true;
  const size_t scheme = lower.find("://");
  if (scheme == std::string::npos) return false;
  const absl::string_view rest = absl::string_view(lower).substr(scheme + 3);
  const absl::string_view authority = rest.substr(0, rest.find_first_of("/?"));
  const size_t at = authority.rfind('@');
  return at != absl::string_view::npos && absl::StrContains(authority.substr(0, at), ':');
}

}  // namespace

bool MemberRecord::operator==(const MemberRecord& other) const {
  return address == other.address && zone == other.zone && weight == other.weight && state == other.state &&
         build == other.build && protocol.min == other.protocol.min && protocol.max == other.protocol.max &&
         former == other.former;
}

absl::Status ValidateClusterName(absl::string_view name) {
  if (name.empty()) return absl::InvalidArgumentError("the cluster name is empty");
  return ValidateWord("cluster", name, kMaxClusterNameBytes);
}

absl::Status ValidateZone(absl::string_view zone) { return ValidateWord("zone", zone, kMaxZoneBytes); }

absl::Status ValidateWeight(int64_t weight) {
  if (weight >= 1 && weight <= kMaxWeight) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("weight ", weight, ": choose 1 to ", kMaxWeight));
}

absl::Status ValidateSettings(const ClusterSettings& settings) {
  KVLINK_RETURN_IF_ERROR(ValidateClusterName(settings.name));
  if (settings.copies < 1 || settings.copies > kMaxCopies) {
    return absl::InvalidArgumentError(absl::StrCat(settings.copies, " copies: choose 1 to ", kMaxCopies));
  }
  if (settings.acknowledged < 1 || settings.acknowledged > settings.copies) {
    return absl::InvalidArgumentError(absl::StrCat(settings.acknowledged, " copies acknowledged of ", settings.copies,
                                                   ": choose 1 to ", settings.copies));
  }
  if (settings.database.size() > kMaxDatabaseBytes || !IsText(settings.database)) {
    return absl::InvalidArgumentError(absl::StrCat("the connection string of the database is not text of at most ",
                                                   kMaxDatabaseBytes, " bytes without control characters"));
  }
  if (HoldsPassword(settings.database)) {
    return absl::InvalidArgumentError(
        "the connection string of the database contains a password, which every reader of etcd could see: remove it, "
        "and give it to each process in the file that PGPASSFILE names");
  }
  return absl::OkStatus();
}

std::string SerializeCluster(const ClusterSettings& settings) {
  return Dump({{"format", kRecordFormat},
               {"id", IdHex(settings.id)},
               {"copies", settings.copies},
               {"acknowledged", settings.acknowledged},
               {"database", settings.database}});
}

std::string SerializeMember(const MemberRecord& record) {
  json fields = {{"format", kRecordFormat},
                 {"address", record.address},
                 {"zone", record.zone},
                 {"weight", record.weight},
                 {"state", std::string(StateName(record.state))},
                 {"build", record.build},
                 {"protocol", {record.protocol.min, record.protocol.max}}};
  if (record.former.has_value()) {
    fields["former"] = {{"zone", record.former->zone}, {"weight", record.former->weight}};
  }
  return Dump(fields);
}

std::string SerializeAlive(const AliveRecord& record) {
  return Dump({{"format", kRecordFormat}, {"incarnation", record.incarnation}, {"address", record.address}});
}

std::string SerializeProgress(const ProgressRecord& record) {
  return Dump({{"format", kRecordFormat},
               {"epoch", record.epoch},
               {"slots", record.slots},
               {"slots_done", record.slots_done},
               {"bytes_left", std::min(record.bytes_left, kMaxNumber)},
               {"bytes_per_second", std::min(record.bytes_per_second, kMaxNumber)}});
}

std::string SerializeEpoch(const EpochRecord& record) {
  // Cut to the length that readers accept; it is only for people to read.
  const absl::string_view change = absl::string_view(record.change).substr(0, kMaxChangeBytes);
  json removed = json::array();
  for (const NodeId& id : record.removed) removed.push_back(IdHex(id));
  return Dump({{"format", kRecordFormat},
               {"founders", record.founders},
               {"change", std::string(change.substr(0, ValidUtf8Prefix(change)))},
               {"removed", std::move(removed)}});
}

std::string SerializeHot(const HotRecord& record) {
  const auto named = [](const HotName& name) {
    return json{
        {"namespace", name.ns}, {"identity", name.identity.Hex()}, {"codec", std::string(CodecName(name.codec))}};
  };
  json read = json::array(), held = json::array();
  for (const HotRead& one : record.read) {
    if (read.size() == kMaxHotRead) break;
    read.push_back(named(one.name));
    read.back()["copies"] = std::clamp(one.copies, 0, kMaxCopies);
    read.back()["reads_per_second"] = std::min(one.reads_per_second, kMaxNumber);
  }
  for (const HotName& one : record.held) {
    if (held.size() == kMaxHotHeld) break;
    held.push_back(named(one));
  }
  for (;;) {
    std::string bytes = Dump({{"format", kRecordFormat}, {"read", read}, {"held", held}});
    if (bytes.size() <= kMaxRecordBytes) return bytes;
    // Possible only with long names of namespaces.
    json& longer = held.size() > read.size() ? held : read;
    longer.erase(longer.size() - 1);
  }
}

absl::StatusOr<ClusterSettings> ParseCluster(absl::string_view name, absl::string_view bytes) {
  Fields fields("record of the cluster", bytes);
  ClusterSettings settings;
  settings.name = std::string(name);
  settings.id = fields.Id("id");
  settings.copies = static_cast<int>(fields.Number("copies", 1, kMaxCopies));
  settings.acknowledged = static_cast<int>(fields.Number("acknowledged", 1, kMaxCopies));
  settings.database = fields.Text("database", kMaxDatabaseBytes);
  fields.Check(ValidateSettings(settings));
  KVLINK_RETURN_IF_ERROR(fields.status());
  return settings;
}

absl::StatusOr<MemberRecord> ParseMember(absl::string_view bytes) {
  Fields fields("record of a member", bytes);
  MemberRecord record;
  const auto standing = [](Fields* of) {
    Standing read{.zone = of->Text("zone", kMaxZoneBytes)};
    of->Check(ValidateZone(read.zone));
    read.weight = static_cast<uint32_t>(of->Number("weight", 1, kMaxWeight));
    return read;
  };
  record.address = fields.Address("address");
  const Standing now = standing(&fields);
  record.zone = now.zone;
  record.weight = now.weight;
  fields.IfPresent("former", [&](Fields* former) { record.former = standing(former); });
  record.state = fields.State("state");
  record.build = fields.Text("build", kMaxBuildBytes);
  record.protocol = fields.Protocol("protocol");
  KVLINK_RETURN_IF_ERROR(fields.status());
  return record;
}

absl::StatusOr<AliveRecord> ParseAlive(absl::string_view bytes) {
  Fields fields("liveness record", bytes);
  AliveRecord record;
  record.incarnation = fields.Number("incarnation", 0, UINT64_MAX);
  record.address = fields.Address("address");
  KVLINK_RETURN_IF_ERROR(fields.status());
  return record;
}

absl::StatusOr<ProgressRecord> ParseProgress(absl::string_view bytes) {
  Fields fields("record of progress", bytes);
  ProgressRecord record;
  record.epoch = fields.Number("epoch", 0, kMaxNumber);
  record.slots = static_cast<uint32_t>(fields.Number("slots", 0, kSlots));
  record.slots_done = static_cast<uint32_t>(fields.Number("slots_done", 0, record.slots));
  record.bytes_left = fields.Number("bytes_left", 0, kMaxNumber);
  record.bytes_per_second = fields.Number("bytes_per_second", 0, kMaxNumber);
  KVLINK_RETURN_IF_ERROR(fields.status());
  return record;
}

absl::StatusOr<EpochRecord> ParseEpoch(absl::string_view bytes) {
  Fields fields("record of the epoch", bytes);
  EpochRecord record;
  record.founders = static_cast<int>(fields.Number("founders", 0, kMaxCopies));
  record.change = fields.Text("change", kMaxChangeBytes);
  record.removed = fields.Ids("removed", kMaxRemoved);
  KVLINK_RETURN_IF_ERROR(fields.status());
  return record;
}

absl::StatusOr<HotRecord> ParseHot(absl::string_view bytes) {
  Fields fields("record of hot encodings", bytes);
  HotRecord record;
  fields.Each("read", kMaxHotRead, [&record](Fields* one) {
    HotRead read{.name = one->Name()};
    read.copies = static_cast<int>(one->Number("copies", 0, kMaxCopies));
    read.reads_per_second = one->Number("reads_per_second", 0, kMaxNumber);
    record.read.push_back(std::move(read));
  });
  fields.Each("held", kMaxHotHeld, [&record](Fields* one) { record.held.push_back(one->Name()); });
  KVLINK_RETURN_IF_ERROR(fields.status());
  return record;
}

std::string IdHex(const NodeId& id) { return absl::BytesToHexString(BytesOf(id)); }

std::optional<NodeId> IdFromHex(absl::string_view hex) {
  const bool good = hex.size() == 32 && std::all_of(hex.begin(), hex.end(), [](char c) {
                      return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
                    });
  if (!good) return std::nullopt;
  const std::string bytes = absl::HexStringToBytes(hex);
  NodeId id;
  std::copy(bytes.begin(), bytes.end(), id.begin());
  return id;
}

absl::string_view StateName(MemberState state) {
  switch (state) {
    case MemberState::kJoining:
      return "joining";
    case MemberState::kActive:
      return "active";
    case MemberState::kDraining:
      return "draining";
  }
  return "";
}

std::string KeyOf(absl::string_view cluster, KeyKind kind, const NodeId& id) {
  switch (kind) {
    case KeyKind::kCluster:
      return absl::StrCat(cluster, "/cluster");
    case KeyKind::kEpoch:
      return absl::StrCat(cluster, "/epoch");
    case KeyKind::kMember:
      return absl::StrCat(cluster, "/members/", IdHex(id));
    case KeyKind::kEntered:
      return absl::StrCat(cluster, "/entered/", IdHex(id));
    case KeyKind::kAlive:
      return absl::StrCat(cluster, "/alive/", IdHex(id));
    case KeyKind::kProgress:
      return absl::StrCat(cluster, "/progress/", IdHex(id));
    case KeyKind::kHot:
      return absl::StrCat(cluster, "/hot/", IdHex(id));
  }
  return "";
}

std::optional<ParsedKey> ParseKey(absl::string_view cluster, absl::string_view key) {
  if (!absl::ConsumePrefix(&key, cluster) || !absl::ConsumePrefix(&key, "/")) return std::nullopt;
  if (key == "cluster") return ParsedKey{KeyKind::kCluster, {}};
  if (key == "epoch") return ParsedKey{KeyKind::kEpoch, {}};
  ParsedKey parsed;
  if (absl::ConsumePrefix(&key, "members/")) {
    parsed.kind = KeyKind::kMember;
  } else if (absl::ConsumePrefix(&key, "entered/")) {
    parsed.kind = KeyKind::kEntered;
  } else if (absl::ConsumePrefix(&key, "alive/")) {
    parsed.kind = KeyKind::kAlive;
  } else if (absl::ConsumePrefix(&key, "progress/")) {
    parsed.kind = KeyKind::kProgress;
  } else if (absl::ConsumePrefix(&key, "hot/")) {
    parsed.kind = KeyKind::kHot;
  } else {
    return std::nullopt;
  }
  const std::optional<NodeId> id = IdFromHex(key);
  if (!id.has_value()) return std::nullopt;
  parsed.id = *id;
  return parsed;
}

}  // namespace kvlink::store::cluster
