#include "models/text/jinja/sequence_filters.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/text/jinja/python_text.h"

namespace packrat::jinja {
namespace {

Value Length(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Parameters none(arguments, {}, budget);
  size_t length = 0;
  if (subject.IsString()) {
    if (!budget->Spend(subject.string().size() / 16)) return Value();
    length = CountCharacters(subject.text());
  } else if (subject.IsList()) {
    length = subject.list().size();
  } else if (subject.IsDict()) {
    length = subject.dict().entries.size();
  } else if (!subject.IsUndefined()) {
    return budget->Fail(absl::StrCat("object of type '", subject.Type(), "' has no len()"));
  }
  return Value::Int(static_cast<int64_t>(length));
}

Value ToList(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Parameters none(arguments, {}, budget);
  return subject.IsList() ? subject : budget->Items(ItemsOf(subject, budget));
}

Value Pairs(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Parameters none(arguments, {}, budget);
  if (subject.IsUndefined()) return budget->Items({});
  if (!subject.IsDict()) return budget->Fail("Can only get item pairs from a mapping.");
  return FindMethod(subject, "items")(subject, {}, budget);
}

Value First(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Parameters none(arguments, {}, budget);
  const List items = ItemsOf(subject, budget);
  return items.empty() ? Value::Undefined("No first item, sequence was empty.") : items.front();
}

Value Last(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Parameters none(arguments, {}, budget);
  const List items = ItemsOf(subject, budget);
  return items.empty() ? Value::Undefined("No last item, sequence was empty.") : items.back();
}

Value Reverse(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Parameters none(arguments, {}, budget);
  List items = ItemsOf(subject, budget);
  std::reverse(items.begin(), items.end());
  if (!subject.IsString()) return budget->Items(std::move(items));
  MarkedText text;
  for (const Value& item : items) text.Append(item.string());
  return budget->Text(std::move(text));
}

Value Join(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"d", "attribute"}, budget);
  const MarkedText separator = p.Has(0) ? Shown(p[0], budget) : MarkedText();
  MarkedText joined;
  bool first = true;
  for (const Value& item : ItemsOf(subject, budget)) {
    const MarkedText text = Shown(p.Has(1) ? AttributePath(item, p[1], budget) : item, budget);
    if (!budget->Spend(1 + (separator.size() + text.size()) / 16)) return Value();
    if (!first) joined.Append(separator);
    joined.Append(text);
    first = false;
  }
  return budget->Text(std::move(joined));
}

Value Map(const Value& subject, const Arguments& arguments, Budget* budget) {
  List made;
  Arguments rest = arguments;
  Native filter = nullptr;
  Value attribute, otherwise;
  if (arguments.positional.empty()) {
    const Parameters p(arguments, {"attribute", "default"}, budget);
    if (!p.Has(0)) return budget->Fail("map wants a filter or an attribute");
    attribute = p[0];
    otherwise = p[1];
  } else {
    const Value& name = arguments.positional[0];
    filter = name.IsString() ? FindFilter(name.text()) : nullptr;
    if (filter == nullptr) {
      return budget->Fail(absl::StrCat("No filter named '", Shown(name, budget).text(), "'."));
    }
    rest.positional.erase(rest.positional.begin());
  }
  if (!subject.Truth()) return budget->Items({});  // Of none too, as in Jinja.
  for (const Value& item : ItemsOf(subject, budget)) {
    if (!budget->Spend(1)) return Value();
    Value value =
        filter == nullptr ? AttributePath(item, attribute, budget) : filter(item, rest, budget);
    if (filter == nullptr && value.IsUndefined() && !otherwise.IsUndefined()) value = otherwise;
    made.push_back(std::move(value));
  }
  return budget->Items(std::move(made));
}

// select, reject, selectattr, rejectattr: the items, or their attributes, for which a test holds or
// does not.
template <bool keep, bool by_attribute>
Value Choose(const Value& subject, const Arguments& arguments, Budget* budget) {
  Arguments rest = arguments;
  Value attribute;
  if (by_attribute) {
    if (rest.positional.empty()) return budget->Fail("an attribute's name is missing");
    attribute = rest.positional[0];
    rest.positional.erase(rest.positional.begin());
  }
  Native test = nullptr;  // Null: whether it is true.
  if (!rest.positional.empty()) {
    const Value name = rest.positional[0];
    test = name.IsString() ? FindTest(name.text()) : nullptr;
    if (test == nullptr) {
      return budget->Fail(absl::StrCat("No test named '", Shown(name, budget).text(), "'."));
    }
    rest.positional.erase(rest.positional.begin());
  }
  List chosen;
  if (!subject.Truth()) return budget->Items({});
  for (const Value& item : ItemsOf(subject, budget)) {
    if (!budget->Spend(1)) return Value();
    const Value tested = by_attribute ? AttributePath(item, attribute, budget) : item;
    const bool holds = test == nullptr ? tested.Truth() : test(tested, rest, budget).Truth();
    if (holds == keep) chosen.push_back(item);
  }
  return budget->Items(std::move(chosen));
}

// By what items are compared: a string's letters count alike unless told otherwise.
Value KeyFor(const Value& item, const Value& attribute, bool case_sensitive, Budget* budget) {
  const Value key = attribute.IsUndefined() ? item : AttributePath(item, attribute, budget);
  if (case_sensitive || !key.IsString()) return key;
  return budget->Text(ChangeCase(key.string(), Case::kLower));
}

bool SortByKeys(std::vector<std::pair<Value, Value>>* keyed, bool reverse, Budget* budget) {
  size_t logarithm = 1, weight = 0;
  while (keyed->size() >> logarithm != 0) ++logarithm;
  for (const auto& [key, item] : *keyed) weight += key.weight();
  if (!budget->Spend(weight * logarithm)) return false;
  bool comparable = true;
  std::stable_sort(keyed->begin(), keyed->end(), [&](const auto& a, const auto& b) {
    int order = 0;
    comparable = comparable && Compare(a.first, b.first, &order);
    return comparable && (reverse ? order > 0 : order < 0);
  });
  if (!comparable) budget->Fail("items of different types cannot be sorted");
  return comparable;
}

Value Sort(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"reverse", "case_sensitive", "attribute"}, budget);
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : ItemsOf(subject, budget)) {
    keyed.emplace_back(KeyFor(item, p[2], p.TruthAt(1, false), budget), item);
  }
  if (!SortByKeys(&keyed, p.TruthAt(0, false), budget)) return Value();
  List sorted;
  for (auto& [key, item] : keyed) sorted.push_back(std::move(item));
  return budget->Items(std::move(sorted));
}

Value SortDict(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"case_sensitive", "by", "reverse"}, budget);
  static const std::string by_key = "key";
  const bool by_value = p.TextAt(1, by_key) == "value";
  if (!subject.IsDict()) return budget->Fail("dictsort wants a dict");
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, value] : subject.dict().entries) {
    keyed.emplace_back(KeyFor(by_value ? value : key, Value(), p.TruthAt(0, false), budget),
                       Value::FromList({key, value}, /*tuple=*/true));
  }
  if (!SortByKeys(&keyed, p.TruthAt(2, false), budget)) return Value();
  List sorted;
  for (auto& [key, item] : keyed) sorted.push_back(std::move(item));
  return budget->Items(std::move(sorted));
}

Value Unique(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"case_sensitive", "attribute"}, budget);
  List kept, keys;
  for (const Value& item : ItemsOf(subject, budget)) {
    const Value key = KeyFor(item, p[1], p.TruthAt(0, false), budget);
    if (!budget->Spend(1 + keys.size() * key.weight())) return Value();
    if (std::any_of(keys.begin(), keys.end(), [&](const Value& k) { return Equal(k, key); })) {
      continue;
    }
    keys.push_back(key);
    kept.push_back(item);
  }
  return budget->Items(std::move(kept));
}

template <bool largest>
Value Extreme(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"case_sensitive", "attribute"}, budget);
  Value best, best_key;
  for (const Value& item : ItemsOf(subject, budget)) {
    const Value key = KeyFor(item, p[1], p.TruthAt(0, false), budget);
    int order = largest ? 1 : -1;
    if (!budget->Spend(key.weight())) return Value();
    if (!best_key.IsUndefined() && !Compare(key, best_key, &order)) {
      return budget->Fail("items of different types cannot be compared");
    }
    if (largest ? order <= 0 : order >= 0) continue;
    best = item;
    best_key = key;
  }
  return best;
}

Value Sum(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"attribute", "start"}, budget);
  int64_t total = p.IntAt(1, 0);
  double real = 0;
  bool integers = true;
  for (const Value& item : ItemsOf(subject, budget)) {
    const Value value = p.Has(0) ? AttributePath(item, p[0], budget) : item;
    if (!value.IsNumber()) return budget->Fail("sum wants numbers");
    if (!value.IsInteger()) {
      integers = false;
      real += value.number();
    } else if (__builtin_add_overflow(total, value.integer(), &total)) {
      return budget->Fail("the sum is too large");
    }
  }
  if (integers) return Value::Int(total);
  return Value::Float(static_cast<double>(total) + real);
}

Value Batch(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"linecount", "fill_with"}, budget);
  const int64_t size = p.IntAt(0, 0);
  if (size < 1 || size > 1000) return budget->Fail("batch wants a size from 1 to 1000");
  List batches, batch;
  for (const Value& item : ItemsOf(subject, budget)) {
    batch.push_back(item);
    if (static_cast<int64_t>(batch.size()) < size) continue;
    batches.push_back(budget->Items(std::move(batch)));
    batch = {};
  }
  if (!batch.empty()) {
    if (p.Has(1)) batch.resize(size, p[1]);
    batches.push_back(budget->Items(std::move(batch)));
  }
  return budget->Items(std::move(batches));
}

constexpr std::pair<absl::string_view, Native> kFilters[] = {
    {"batch", Batch},
    {"count", Length},
    {"dictsort", SortDict},
    {"first", First},
    {"items", Pairs},
    {"join", Join},
    {"last", Last},
    {"length", Length},
    {"list", ToList},
    {"map", Map},
    {"max", Extreme<true>},
    {"min", Extreme<false>},
    {"reject", Choose<false, false>},
    {"rejectattr", Choose<false, true>},
    {"reverse", Reverse},
    {"select", Choose<true, false>},
    {"selectattr", Choose<true, true>},
    {"sort", Sort},
    {"sum", Sum},
    {"unique", Unique},
};

}  // namespace

Native FindSequenceFilter(absl::string_view name) {
  const auto* const found =
      std::find_if(std::begin(kFilters), std::end(kFilters),
                   [name](const auto& filter) { return filter.first == name; });
  return found == std::end(kFilters) ? nullptr : found->second;
}

}  // namespace packrat::jinja
