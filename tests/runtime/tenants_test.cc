#include "runtime/tenants.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace packrat {
namespace {

TEST(Tenants, AreChargedByWeight) {
  Tenants tenants;
  const int a = tenants.Join("a", 1);
  const int b = tenants.Join("b", 4);
  EXPECT_NE(a, b);
  EXPECT_EQ(tenants.Join("a", 1), a);
  tenants.Charge(a, 100);
  tenants.Charge(b, 100);
  EXPECT_EQ(tenants.shares()[a].served, 100);
  EXPECT_EQ(tenants.shares()[b].served, 25);
  EXPECT_EQ(tenants.shares()[b].weight, 4);
  tenants.Leave(b, 60);  // What was not needed was not served.
  EXPECT_EQ(tenants.shares()[b].served, 10);
  tenants.Join("b", 2);  // A new weight counts from here on.
  tenants.Charge(b, 100);
  EXPECT_EQ(tenants.shares()[b].served, 60);
}

TEST(Tenants, IdlenessEarnsNoCredit) {
  Tenants tenants;
  const int a = tenants.Join("a", 1);
  const int b = tenants.Join("b", 1);
  tenants.Leave(b, 0);
  for (int i = 0; i < 10; ++i) tenants.Charge(a, 100);
  EXPECT_EQ(tenants.Join("b", 1), b);
  EXPECT_EQ(tenants.shares()[b].served, 900);  // As a had before its last.
  // Nor does leaving pay a debt.
  tenants.Charge(b, 5000);
  tenants.Leave(b, 0);
  tenants.Join("b", 1);
  EXPECT_EQ(tenants.shares()[b].served, 5900);
  // A new one begins there as well.
  const int c = tenants.Join("c", 1);
  EXPECT_EQ(tenants.shares()[c].served, 900);
}

TEST(Tenants, PlacesAreUsedAgain) {
  Tenants tenants;
  const int a = tenants.Join("a", 1);
  for (int i = 0; i < 1000; ++i) {
    const int other = tenants.Join(absl::StrCat("name ", i), 1);
    tenants.Charge(other, 10);
    tenants.Charge(a, 10);
    EXPECT_NE(other, a);
    tenants.Leave(other, 0);
  }
  EXPECT_LT(tenants.shares().size(), 10u);
  EXPECT_EQ(tenants.Join("a", 1), a);
}

}  // namespace
}  // namespace packrat
