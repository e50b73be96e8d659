#include "models/text/grammar/schema_formats.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace packrat {
namespace {

// A February has 28 days, and no year is 0, which many readers refuse.
constexpr char kDate[] =
    "([1-9]\\d{3}|0[1-9]\\d{2}|00[1-9]\\d|000[1-9])-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0["
    "469]|11)-(0[1-9]|[12]\\d|30)|"
    "02-(0[1-9]|1\\d|2[0-8]))";
constexpr char kTime[] =
    "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,6})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)";
constexpr char kUuid[] = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
constexpr char kEmail[] =
    "[A-Za-z0-9]+([._+-][A-Za-z0-9]+)*@([A-Za-z0-9]+(-[A-Za-z0-9]+)*\\.)+[A-Za-z]{2,24}";
constexpr char kHostname[] =
    "[A-Za-z0-9]{1,20}(-[A-Za-z0-9]{1,12}){0,2}(\\.[A-Za-z0-9]{1,20}(-[A-Za-z0-9]{1,12}){0,2}){0,"
    "3}";

std::string Ipv4() {
  const std::string part = "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";
  return absl::StrCat(part, "(\\.", part, "){3}");
}

// Eight groups, of which "::" stands for one or more that are zero.
std::string Ipv6() {
  const std::string group = "[0-9a-f]{1,4}";
  const auto groups = [&](int least, int most) {
    return absl::StrCat(group, "(:", group, "){", least - 1, ",", most - 1, "}");
  };
  std::string all = groups(8, 8);
  for (int before = 0; before <= 7; ++before) {
    const std::string first = before > 0 ? groups(before, before) : "";
    const std::string last = before < 7 ? absl::StrCat("(", groups(1, 7 - before), ")?") : "";
    absl::StrAppend(&all, "|", first, "::", last);
  }
  return all;
}

// Years, months and days, then hours, minutes and seconds, of each what is largest first and
// without gaps; or weeks.
std::string Duration() {
  const std::string number = "\\d{1,6}";
  const auto units = [&](char a, char b, char c) {
    const auto one = [&](char unit) { return absl::StrCat(number, std::string(1, unit)); };
    return absl::StrCat("(", one(a), "(", one(b), "(", one(c), ")?)?|", one(b), "(", one(c), ")?|",
                        one(c), ")");
  };
  const std::string time = absl::StrCat("T", units('H', 'M', 'S'));
  return absl::StrCat("P(", units('Y', 'M', 'D'), "(", time, ")?|", time, "|", number, "W)");
}

std::string Uri() {
  const std::string text = "[A-Za-z0-9._~!$&'()*+,;=:@-]*";
  return absl::StrCat("https?://", kHostname, "(:[1-9]\\d{0,3})?(/", text, ")*(\\?", text, ")?(#",
                      text, ")?");
}

constexpr absl::string_view kFormats[] = {"date",     "time", "date-time", "duration", "email",
                                          "hostname", "ipv4", "ipv6",      "uri",      "uuid"};

}  // namespace

std::string FormatRegex(absl::string_view format) {
  if (format == "date") return kDate;
  if (format == "time") return kTime;
  if (format == "date-time") return absl::StrCat(kDate, "T", kTime);
  if (format == "duration") return Duration();
  if (format == "email") return kEmail;
  if (format == "hostname") return kHostname;
  if (format == "ipv4") return Ipv4();
  if (format == "ipv6") return Ipv6();
  if (format == "uri") return Uri();
  if (format == "uuid") return kUuid;
  return "";
}

std::string FormatNames() { return absl::StrJoin(kFormats, ", "); }

}  // namespace packrat
