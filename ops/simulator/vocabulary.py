"""What the simulated city is made of, in English and Chinese: cuisines, attributes, districts, parts of names."""

from dataclasses import dataclass
from typing import Literal

Opening = Literal["breakfast", "all day", "lunch and dinner", "dinner", "late", "cafe", "always"]
Daypart = Literal["morning", "noon", "afternoon", "evening", "night"]
Company = Literal["alone", "couple", "friends", "family", "business"]
Weather = Literal["sunny", "cloudy", "rain", "snow", "hot", "cold"]

DAYPARTS: tuple[Daypart, ...] = ("morning", "noon", "afternoon", "evening", "night")
COMPANIES: tuple[Company, ...] = ("alone", "couple", "friends", "family", "business")
FAMILIES = ("spicy", "refined", "homely", "street", "asian", "western", "sweet")


@dataclass(frozen=True)
class Cuisine:
    """A kind of place. ``warming`` is how much better it is on a cold day than on a hot one, from -1 to 1."""

    tags: tuple[str, ...]  # English and Chinese alternating; the first pair is the cuisine's own name
    family: str  # tastes are shared within a family
    share: float  # of all restaurants
    price: float  # median per head, CNY
    openings: tuple[Opening, ...]
    warming: float
    wanted_en: str  # as people ask for it
    wanted_zh: str
    dishes_en: tuple[str, ...]
    dishes_zh: tuple[str, ...]
    house_en: tuple[str, ...]  # the last part of a name
    house_zh: tuple[str, ...]


@dataclass(frozen=True)
class Attribute:
    """Something a place has or is. People ask for it in front of the noun (``front``) or after it (``tail``)."""

    name: str
    likelihood: float  # share of restaurants that have it, before cuisine and district have their say
    front_en: tuple[str, ...]
    tail_en: tuple[str, ...]
    front_zh: tuple[str, ...]
    described_en: tuple[str, ...]
    described_zh: tuple[str, ...]


@dataclass(frozen=True)
class District:
    """A cluster of restaurants. ``x`` and ``y`` are metres east and north of the city's centre."""

    en: str
    zh: str
    x: float
    y: float
    spread: float  # standard deviation, metres
    restaurants: float  # weight among restaurants
    homes: float  # among homes
    offices: float  # among work places
    price: float  # factor
    families: tuple[str, ...]  # overrepresented here
    attributes: tuple[str, ...]  # likewise


_DINING: tuple[Opening, ...] = ("all day", "lunch and dinner", "lunch and dinner")
_SNACKS: tuple[Opening, ...] = ("all day", "all day", "late", "always")

CUISINES: tuple[Cuisine, ...] = (
    Cuisine(
        ("Sichuan", "川菜", "Chinese", "中餐", "spicy", "辣"), "spicy", 7, 90, _DINING, 0.4,
        "Sichuan food", "川菜",
        ("mapo tofu", "boiled fish in chilli oil", "dan dan noodles"), ("麻婆豆腐", "水煮鱼", "担担面"),
        ("Sichuan Kitchen", "Chilli House", "Chengdu Table"), ("川菜馆", "川味小馆", "蜀宴"),
    ),
    Cuisine(
        ("hot pot", "火锅", "Chinese", "中餐", "spicy", "辣"), "spicy", 6, 125, ("all day", "dinner", "late"), 1.0,
        "hot pot", "火锅",
        ("beef tripe", "split-pot broth", "fresh lamb slices"), ("毛肚", "鸳鸯锅", "鲜切羊肉"),
        ("Hot Pot", "Hot Pot House", "Copper Pot"), ("火锅", "老火锅", "铜锅"),
    ),
    Cuisine(
        ("Hunan", "湘菜", "Chinese", "中餐", "spicy", "辣"), "spicy", 4, 85, _DINING, 0.3,
        "Hunan food", "湘菜",
        ("steamed fish head with chopped chilli", "stir-fried pork with peppers"), ("剁椒鱼头", "小炒黄牛肉"),
        ("Hunan Kitchen", "Pepper Hall"), ("湘菜馆", "湘味轩"),
    ),
    Cuisine(
        ("Cantonese", "粤菜", "Chinese", "中餐"), "refined", 4, 170, _DINING, 0.0,
        "Cantonese food", "粤菜",
        ("roast goose", "steamed grouper", "slow-cooked soup"), ("烧鹅", "清蒸石斑", "老火靓汤"),
        ("Cantonese Restaurant", "Canton House"), ("粤菜馆", "粤轩"),
    ),
    Cuisine(
        ("dim sum", "早茶", "Cantonese", "粤式点心"), "refined", 2.5, 85, ("breakfast", "cafe", "cafe"), 0.0,
        "dim sum", "早茶点心",
        ("shrimp dumplings", "rice rolls", "custard buns"), ("虾饺", "肠粉", "流沙包"),
        ("Dim Sum", "Tea Pavilion"), ("茶楼", "点心坊"),
    ),
    Cuisine(
        ("Shanghainese", "本帮菜", "Chinese", "中餐"), "homely", 7, 115, _DINING, 0.2,
        "Shanghainese food", "本帮菜",
        ("red-braised pork", "oil-braised shrimp", "eel noodles"), ("红烧肉", "油爆虾", "响油鳝糊"),
        ("Shanghai Kitchen", "Lane House"), ("本帮菜", "弄堂菜馆", "老上海菜"),
    ),
    Cuisine(
        ("Northeastern", "东北菜", "Chinese", "中餐"), "homely", 3, 70, _DINING, 0.7,
        "Dongbei food", "东北菜",
        ("sweet and sour pork", "stewed goose in an iron pot"), ("锅包肉", "铁锅炖大鹅"),
        ("Dongbei Kitchen", "Iron Pot"), ("东北菜馆", "铁锅炖"),
    ),
    Cuisine(
        ("Xinjiang", "新疆菜", "halal", "清真"), "homely", 3, 80, _DINING, 0.4,
        "Xinjiang food", "新疆菜",
        ("lamb skewers", "big plate chicken", "hand-pulled rice"), ("羊肉串", "大盘鸡", "手抓饭"),
        ("Xinjiang Restaurant", "Silk Road House"), ("新疆餐厅", "西域楼"),
    ),
    Cuisine(
        ("vegetarian", "素食", "Chinese", "中餐"), "refined", 2, 95, _DINING, 0.0,
        "vegetarian food", "素食",
        ("mushroom pot", "tofu skin rolls", "lotus root"), ("菌菇煲", "腐皮卷", "糖藕"),
        ("Vegetarian", "Green Table"), ("素食馆", "素心斋"),
    ),
    Cuisine(
        ("noodles", "面馆", "fast food", "快餐"), "street", 8, 28, _SNACKS, 0.5,
        "noodles", "面条",
        ("scallion oil noodles", "beef noodle soup", "pork chop noodles"), ("葱油拌面", "牛肉面", "大排面"),
        ("Noodles", "Noodle House"), ("面馆", "面家"),
    ),
    Cuisine(
        ("soup dumplings", "小笼包", "snacks", "小吃"), "street", 5, 34, _SNACKS, 0.4,
        "soup dumplings", "小笼包",
        ("soup dumplings", "pan-fried buns", "wonton soup"), ("小笼包", "生煎", "小馄饨"),
        ("Dumplings", "Bun Shop"), ("小笼馆", "生煎铺", "馄饨店"),
    ),
    Cuisine(
        ("breakfast", "早餐", "snacks", "小吃"), "street", 5, 14, ("breakfast",), 0.2,
        "a Chinese breakfast", "早点",
        ("soy milk and fried dough", "sticky rice rolls", "savoury pancakes"), ("豆浆油条", "粢饭团", "煎饼果子"),
        ("Breakfast", "Soy Milk"), ("早点铺", "豆浆店"),
    ),
    Cuisine(
        ("barbecue", "烧烤", "skewers", "烤串"), "street", 5, 85, ("late",), 0.2,
        "barbecue skewers", "烧烤",
        ("lamb skewers", "grilled oysters", "grilled aubergine"), ("烤羊肉串", "烤生蚝", "烤茄子"),
        ("Skewers", "Charcoal Grill"), ("烧烤", "炭火烤串"),
    ),
    Cuisine(
        ("crayfish", "小龙虾", "late night", "夜宵"), "spicy", 2, 120, ("late",), -0.3,
        "crayfish", "小龙虾",
        ("garlic crayfish", "thirteen-spice crayfish"), ("蒜蓉小龙虾", "十三香小龙虾"),
        ("Crayfish", "Crayfish Stall"), ("小龙虾", "虾馆"),
    ),
    Cuisine(
        ("seafood", "海鲜", "Chinese", "中餐"), "refined", 2.5, 260, ("lunch and dinner", "dinner"), -0.1,
        "seafood", "海鲜",
        ("steamed crab", "scallops with vermicelli"), ("清蒸大闸蟹", "粉丝扇贝"),
        ("Seafood", "Harbour Table"), ("海鲜酒家", "渔港"),
    ),
    Cuisine(
        ("Japanese", "日料", "sushi", "寿司"), "asian", 5, 240, ("lunch and dinner", "dinner"), 0.0,
        "sushi", "日料",
        ("sashimi", "nigiri", "grilled eel"), ("刺身", "握寿司", "鳗鱼饭"),
        ("Sushi", "Izakaya"), ("寿司", "居酒屋", "日本料理"),
    ),
    Cuisine(
        ("ramen", "拉面", "Japanese", "日式"), "asian", 3, 58, ("all day", "late"), 0.6,
        "ramen", "日式拉面",
        ("tonkotsu ramen", "miso ramen", "gyoza"), ("豚骨拉面", "味噌拉面", "煎饺"),
        ("Ramen", "Ramen Bar"), ("拉面", "拉面屋"),
    ),
    Cuisine(
        ("Korean", "韩餐", "grill", "烤肉"), "asian", 4, 110, ("all day", "dinner", "late"), 0.5,
        "Korean barbecue", "韩式烤肉",
        ("grilled pork belly", "kimchi stew", "fried chicken"), ("烤五花肉", "泡菜锅", "韩式炸鸡"),
        ("Korean Grill", "Seoul Kitchen"), ("韩国烤肉", "韩食堂"),
    ),
    Cuisine(
        ("Thai", "泰国菜", "Southeast Asian", "东南亚菜"), "asian", 2.5, 125, _DINING, -0.2,
        "Thai food", "泰国菜",
        ("tom yum soup", "green curry", "mango sticky rice"), ("冬阴功汤", "绿咖喱", "芒果糯米饭"),
        ("Thai Kitchen", "Siam Table"), ("泰餐厅", "泰小馆"),
    ),
    Cuisine(
        ("Vietnamese", "越南菜", "Southeast Asian", "东南亚菜"), "asian", 2, 72, _DINING, 0.0,
        "Vietnamese food", "越南菜",
        ("beef pho", "spring rolls", "banh mi"), ("牛肉河粉", "春卷", "越式法棍"),
        ("Pho", "Saigon Kitchen"), ("越南粉", "西贡小馆"),
    ),
    Cuisine(
        ("Indian", "印度菜", "curry", "咖喱"), "asian", 1.5, 115, _DINING, 0.3,
        "Indian curry", "印度咖喱",
        ("butter chicken", "garlic naan", "dal"), ("黄油鸡", "蒜香馕", "扁豆糊"),
        ("Curry House", "Tandoor"), ("印度餐厅", "咖喱屋"),
    ),
    Cuisine(
        ("Italian", "意大利菜", "pizza", "披萨"), "western", 3.5, 210, ("all day", "lunch and dinner", "dinner"), 0.0,
        "pizza or pasta", "意大利菜",
        ("wood-fired pizza", "truffle tagliatelle", "tiramisu"), ("窑烤披萨", "松露宽面", "提拉米苏"),
        ("Trattoria", "Pizzeria"), ("意式餐厅", "披萨馆"),
    ),
    Cuisine(
        ("French", "法餐", "fine dining", "西餐"), "western", 1.5, 620, ("dinner", "lunch and dinner"), 0.1,
        "French food", "法餐",
        ("duck confit", "foie gras", "souffle"), ("油封鸭", "鹅肝", "舒芙蕾"),
        ("Bistro", "Restaurant"), ("法餐厅", "法式小馆"),
    ),
    Cuisine(
        ("steak", "牛排", "grill", "西餐"), "western", 2, 360, ("lunch and dinner", "dinner"), 0.2,
        "a good steak", "牛排",
        ("dry-aged rib-eye", "sirloin", "grilled vegetables"), ("干式熟成肉眼", "西冷", "烤时蔬"),
        ("Steakhouse", "Grill"), ("牛排馆", "扒房"),
    ),
    Cuisine(
        ("burgers", "汉堡", "American", "西餐"), "western", 3, 82, ("all day", "late"), 0.0,
        "a burger", "汉堡",
        ("smash burger", "onion rings", "milkshake"), ("双层牛肉堡", "洋葱圈", "奶昔"),
        ("Burgers", "Diner"), ("汉堡", "汉堡店"),
    ),
    Cuisine(
        ("Mexican", "墨西哥菜", "tacos", "塔可"), "western", 1.5, 125, ("all day", "late"), -0.1,
        "tacos", "墨西哥菜",
        ("fish tacos", "guacamole", "quesadilla"), ("鱼肉塔可", "牛油果酱", "芝士饼"),
        ("Taqueria", "Cantina"), ("塔可店", "墨西哥餐厅"),
    ),
    Cuisine(
        ("light meals", "轻食", "salad", "沙拉"), "western", 3, 55, ("cafe", "all day"), -0.5,
        "a salad or something light", "轻食",
        ("poke bowl", "grain salad", "fresh juice"), ("波奇饭", "谷物沙拉", "鲜榨果汁"),
        ("Salads", "Greens"), ("轻食", "沙拉店"),
    ),
    Cuisine(
        ("cafe", "咖啡馆", "brunch", "早午餐"), "sweet", 8, 46, ("cafe",), 0.0,
        "coffee", "咖啡",
        ("flat white", "avocado toast", "cheesecake"), ("澳白", "牛油果吐司", "巴斯克蛋糕"),
        ("Coffee", "Cafe", "Roasters"), ("咖啡", "咖啡馆"),
    ),
    Cuisine(
        ("dessert", "甜品", "ice cream", "冰淇淋"), "sweet", 4, 38, ("all day", "late"), -0.8,
        "dessert", "甜品",
        ("shaved ice", "mango pudding", "gelato"), ("刨冰", "杨枝甘露", "手工冰淇淋"),
        ("Desserts", "Gelato"), ("甜品店", "冰淇淋店"),
    ),
    Cuisine(
        ("tea house", "茶馆", "tea", "茶"), "refined", 2, 88, ("cafe", "all day"), 0.3,
        "tea and snacks", "茶点",
        ("oolong", "osmanthus cake", "pu'er"), ("乌龙茶", "桂花糕", "普洱"),
        ("Tea House", "Tea Room"), ("茶馆", "茶室"),
    ),
    Cuisine(
        ("bar", "酒吧", "cocktails", "鸡尾酒"), "western", 4, 145, ("late",), 0.0,
        "cocktails", "小酒馆",
        ("craft beer", "negroni", "small plates"), ("精酿啤酒", "尼格罗尼", "下酒小食"),
        ("Bar", "Taproom"), ("酒吧", "小酒馆"),
    ),
    Cuisine(
        ("creative", "融合菜", "fine dining", "高级餐厅"), "refined", 1.5, 420, ("dinner", "lunch and dinner"), 0.0,
        "a tasting menu", "融合菜",
        ("seasonal tasting menu", "smoked fish", "tea-paired dessert"), ("时令套餐", "烟熏鲳鱼", "茶香甜点"),
        ("Atelier", "Kitchen & Cellar"), ("私宴", "厨房"),
    ),
)  # fmt: skip

ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(
        "quiet", 0.30, ("quiet", "calm"), ("where we can talk",), ("安静一点的", "清静的"),
        ("Quiet enough to hear each other.", "Soft music and well-spaced tables."),
        ("环境安静，适合聊天。", "桌距宽，说话不费劲。"),
    ),
    Attribute(
        "lively", 0.30, ("lively", "buzzing"), ("with a bit of atmosphere",), ("热闹的", "有气氛的"),
        ("Loud, full and fun most nights.", "Always a crowd at the door."),
        ("人气旺，气氛热闹。", "晚上总是坐满，很有烟火气。"),
    ),
    Attribute(
        "cosy", 0.25, ("cosy", "intimate"), (), ("温馨的", "小而美的"),
        ("A small room with warm light.", "Twelve seats and a fireplace."),
        ("店面不大，灯光温暖。", "小小一间，很有家的感觉。"),
    ),
    Attribute(
        "river view", 0.05, (), ("near the river", "with a river view"), ("能看江景的", "江边的"),
        ("Windows onto the Huangpu river.", "Ships pass right in front of the terrace."),
        ("落地窗外就是黄浦江。", "坐在窗边看游船来往。"),
    ),
    Attribute(
        "private rooms", 0.18, (), ("with a private room",), ("有包间的", "带包厢的"),
        ("Private rooms for six to twenty.", "Separate rooms can be booked."),
        ("有包间，适合宴请。", "设有大小包厢，可提前预订。"),
    ),
    Attribute(
        "outdoor seats", 0.20, (), ("with outdoor seats", "where we can sit outside"), ("有露天座位的", "能坐外面的"),
        ("A shaded terrace in the back.", "Tables on the pavement when it is dry."),
        ("有露天座位。", "天气好时可以坐在院子里。"),
    ),
    Attribute(
        "vegetarian options", 0.25, ("vegetarian friendly",), ("with vegetarian options",), ("有素菜选择的",),
        ("Plenty without meat.", "A full page of vegetable dishes."),
        ("素菜选择不少。", "吃素的朋友也能吃好。"),
    ),
    Attribute(
        "kid friendly", 0.22, ("kid friendly", "family friendly"), ("where kids are welcome",),
        ("适合带孩子的", "亲子的"),
        ("High chairs and a play corner.", "Children get their own menu."),
        ("有儿童椅和游乐角。", "有儿童餐，带娃很方便。"),
    ),
    Attribute(
        "pet friendly", 0.10, ("dog friendly",), ("where I can bring my dog",), ("能带狗的", "宠物友好的"),
        ("Dogs are welcome.", "A water bowl waits at the door."),
        ("可以带宠物。", "门口给狗狗备了水。"),
    ),
    Attribute(
        "live music", 0.07, (), ("with live music",), ("有现场音乐的",),
        ("Jazz trio on Fridays.", "A singer with a guitar most evenings."),
        ("周末有乐队驻唱。", "晚上有现场爵士。"),
    ),
    Attribute(
        "air conditioned", 0.60, (), ("with good air con",), ("冷气足的",),
        ("Properly cooled in summer.",),
        ("冷气很足。",),
    ),
    Attribute(
        "good for work", 0.12, ("laptop friendly",), ("with wifi and sockets",), ("能办公的", "有插座的"),
        ("Sockets at every table and fast wifi.",),
        ("网速快，座位有插座。",),
    ),
)  # fmt: skip

DISTRICTS: tuple[District, ...] = (
    District(
        "the Bund", "外滩", 1700, 1000, 500, 9, 1, 5, 1.8,
        ("western", "refined"), ("river view", "private rooms", "live music"),
    ),
    District(
        "Lujiazui", "陆家嘴", 3100, 900, 700, 10, 2, 14, 1.5,
        ("refined", "asian", "western"), ("river view", "private rooms"),
    ),
    District(
        "Jing'an", "静安寺", -2300, -400, 800, 13, 5, 12, 1.25,
        ("western", "asian", "sweet"), ("lively", "good for work"),
    ),
    District(
        "the Former French Concession", "衡复", -2800, -2300, 900, 14, 6, 4, 1.2,
        ("western", "sweet"), ("cosy", "quiet", "outdoor seats", "pet friendly"),
    ),
    District(
        "Yuyuan", "豫园", 2000, -300, 400, 7, 3, 2, 1.0,
        ("street", "homely"), ("lively",),
    ),
    District(
        "Xujiahui", "徐家汇", -3300, -4200, 700, 10, 7, 9, 1.05,
        ("asian", "spicy"), ("kid friendly", "air conditioned"),
    ),
    District(
        "Wujiaochang", "五角场", 4100, 7600, 900, 10, 10, 6, 0.7,
        ("street", "spicy", "sweet"), ("lively", "good for work"),
    ),
    District(
        "Zhangjiang", "张江", 12200, -2800, 1100, 7, 8, 15, 0.85,
        ("street", "spicy"), ("good for work", "quiet"),
    ),
    District(
        "Gubei", "古北", -7000, -3700, 800, 8, 8, 4, 1.15,
        ("asian",), ("quiet", "private rooms", "kid friendly"),
    ),
    District(
        "the North Bund", "北外滩", 2600, 2600, 700, 6, 7, 6, 1.1,
        ("homely", "refined"), ("river view", "outdoor seats"),
    ),
    District(
        "Qibao", "七宝", -11600, -8200, 900, 7, 13, 3, 0.75,
        ("street", "homely"), ("kid friendly", "lively"),
    ),
    District(
        "Zhenru", "真如", -6100, 2500, 1000, 7, 12, 5, 0.8,
        ("homely", "spicy", "street"), ("kid friendly",),
    ),
)  # fmt: skip
NEW_DISTRICT = District(  # not there until the world shifts
    "the West Bund", "西岸", -700, -6500, 700, 0, 0, 0, 1.05,
    ("asian", "sweet", "western"), ("river view", "outdoor seats", "cosy"),
)  # fmt: skip

NAME_FIRST: tuple[tuple[str, str], ...] = (
    ("云", "Cloud"), ("金", "Golden"), ("青", "Green"), ("老", "Old"), ("小", "Little"), ("红", "Red"),
    ("南", "South"), ("东", "East"), ("春", "Spring"), ("秋", "Autumn"), ("月", "Moon"), ("福", "Lucky"),
    ("醉", "Tipsy"), ("半", "Half"), ("九", "Nine"), ("三", "Three"), ("暖", "Warm"), ("白", "White"),
    ("玉", "Jade"), ("夜", "Night"), ("晨", "Morning"),
)  # fmt: skip
NAME_SECOND: tuple[tuple[str, str], ...] = (
    ("竹", "Bamboo"), ("山", "Mountain"), ("舟", "Boat"), ("灯", "Lantern"), ("桥", "Bridge"), ("禾", "Grain"),
    ("鹿", "Deer"), ("鹤", "Crane"), ("鱼", "Fish"), ("井", "Well"), ("院", "Courtyard"), ("巷", "Lane"),
    ("枫", "Maple"), ("荷", "Lotus"), ("梅", "Plum"), ("椒", "Pepper"), ("炉", "Stove"), ("碗", "Bowl"),
    ("亭", "Pavilion"), ("溪", "Creek"), ("雀", "Sparrow"), ("石", "Stone"), ("窗", "Window"),
)  # fmt: skip
